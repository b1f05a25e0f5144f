//! `cargo xtask demo`.

mod picture;
mod svg;
mod timeline;

/// Command line.
#[derive(clap::Args)]
pub struct Args {}

/// Runs it.
pub fn run(_args: Args) -> anyhow::Result<()> {
    let _ = picture::draw;
    anyhow::bail!("not built yet")
}
