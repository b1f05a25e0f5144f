//! Cutting paths at the switch, without taking the carrier away.

use super::namespace;
use super::shape::{Host, Shape, port_name};
use anyhow::{Context, Result, bail, ensure};
use std::process::Command;

/// Which way frames are lost, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    Both,
    /// What the node transmits.
    Tx,
    /// What the node would receive.
    Rx,
}

/// What a port loses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Frames that the node transmits.
    pub tx: bool,
    /// Frames that the node would receive.
    pub rx: bool,
}

/// The switch's ports. For now by the bridge's own port state, which knows no direction.
#[derive(Debug)]
pub struct Ports {
    shape: Shape,
}

impl Ports {
    /// Installs what cuts need, in a lab that has just been built.
    pub fn install(shape: &Shape) -> Result<Self> {
        Self::open(shape)
    }

    /// Opens them in a lab that exists.
    pub fn open(shape: &Shape) -> Result<Self> {
        Ok(Self { shape: shape.clone() })
    }

    /// Silences `direction` of a port, on top of what is silent already.
    pub fn cut(&self, host: Host, network: u32, direction: Direction) -> Result<()> {
        ensure!(direction == Direction::Both, "cuts of one direction aren't possible yet");
        self.state(host, network, "0")
    }

    /// Ends the silence of `direction`.
    pub fn heal(&self, host: Host, network: u32, _direction: Direction) -> Result<()> {
        self.state(host, network, "3")
    }

    /// Silences every port of a host in one step.
    pub fn silence(&self, host: Host) -> Result<()> {
        self.shape.networks_of(host).into_iter().try_for_each(|network| self.state(host, network, "0"))
    }

    /// Ends [`Self::silence`].
    pub fn unsilence(&self, host: Host) -> Result<()> {
        self.shape.networks_of(host).into_iter().try_for_each(|network| self.state(host, network, "3"))
    }

    /// Whether a host was silenced as a whole.
    pub fn silenced(&self, _host: Host) -> Result<bool> {
        Ok(false)
    }

    /// What a port loses now.
    pub fn loss(&self, _host: Host, _network: u32) -> Result<Loss> {
        Ok(Loss::default())
    }

    fn state(&self, host: Host, network: u32, state: &str) -> Result<()> {
        let port = port_name(host, network);
        namespace::enter(&self.shape.switch(), || {
            let mut command = Command::new("bridge");
            command.args(["link", "set", "dev", &port, "state", state]);
            let status = command.status().context("bridge")?;
            if !status.success() {
                bail!("bridge failed for {port}");
            }
            Ok(())
        })
    }
}
