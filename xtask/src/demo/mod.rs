//! `cargo xtask demo`: netft at work, in under a minute.
//!
//! A lab of three nodes on two networks; a UDP and a TCP flow over `netft0`; a fault after the other, each healed.
//! What is shown is what was measured: cuts by the lab's own stamps, detection by the daemons' events, outages by the
//! flows' receivers.

mod history;
mod picture;
mod stages;
mod svg;
mod terminal;
mod timeline;

use crate::cluster::{self, Watch};
use crate::interrupt;
use crate::lab::{self, LabGuard, Options};
use crate::test::workspace_root;
use crate::traffic::{Flow, FlowSpec, boottime_ns};
use anyhow::{Context, Result, ensure};
use stages::{Report, Scene};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use terminal::Terminal;

/// The flows end by themselves after this, whatever happens.
const LIMIT: Duration = Duration::from_secs(60);
const WHOLE_PATIENCE: Duration = Duration::from_secs(15);

/// Command line.
#[derive(clap::Args)]
pub struct Args {
    /// Name of the lab.
    #[arg(long, default_value = "demo")]
    name: String,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let terminal = Terminal::new();
    interrupt::take_down(&args.name)?;
    terminal.title(
        "netft demo",
        "three nodes, two networks; a heartbeat every 1 ms on every route, 5 may be missed",
    );
    terminal.note("building netftd and netft, if they aren't yet …");
    lab::build()?;
    let _lock = lab::timing_lock()?;
    let began = Instant::now();
    let options = Options::new(&args.name, 3, 2);
    let lab = LabGuard::up(&options)?;
    let watches = [Watch::start(&lab, "n1")?, Watch::start(&lab, "n2")?];
    let formed = cluster::wait_until_whole(&lab, WHOLE_PATIENCE)?;
    let formed_ns = boottime_ns();
    terminal.formed(&lab, formed)?;

    let destination = cluster::adapter(&lab, "n2")?.ipv4.into();
    let spec = FlowSpec::kilohertz("n1", "n2", destination, LIMIT);
    let udp = Flow::udp(&lab, &spec)?;
    let tcp = Flow::tcp(&lab, &spec)?;
    ensure!(
        udp.wait_for_arrival(formed_ns, Duration::from_secs(3))
            && tcp.wait_for_arrival(formed_ns, Duration::from_secs(3)),
        "nothing arrives over netft0 from n1 at n2 ({destination})"
    );
    terminal.note(&format!(
        "UDP and TCP flow from n1 to n2 over netft0 ({destination}), 1000 records a second each"
    ));

    cluster::wait_until_settled(&lab, WHOLE_PATIENCE)?;
    let scene = Scene::new(&lab, &watches, &udp, &tcp);
    let mut reports: Vec<Report> = Vec::new();
    for stage in stages::STAGES {
        let report = scene.play(stage);
        terminal.stage(&report);
        reports.push(report);
    }
    std::thread::sleep(Duration::from_millis(300));

    terminal.table(&reports);
    let timeline = history::timeline(&scene, &reports, boottime_ns());
    let path = args.svg.unwrap_or_else(|| workspace_root().join("target/demo.svg"));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(&path, picture::draw(&timeline)).with_context(|| format!("writing {}", path.display()))?;
    terminal.note(&format!("picture: {}", path.display()));
    let failed: Vec<&str> =
        reports.iter().filter(|report| report.failure.is_some()).map(|report| report.name).collect();
    ensure!(failed.is_empty(), "stages that failed: {}", failed.join(", "));
    ensure!(
        began.elapsed() < LIMIT,
        "it took {:.0} s; a demo must be over in 60",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}
