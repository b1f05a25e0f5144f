use super::*;
use crate::config::Secret;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn run(line: &str) -> Result {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).run()
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netft-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn verbs_and_flags_are_understood() {
    for line in [
        "netft status",
        "netft --json status",
        "netft status --json",
        "netft --socket /x routes --history n2",
        "netft routes n2 --json",
        "netft events --follow --since 5m",
        "netft events --since 2026-11-22T06:15:20Z",
        "netft vips --json",
        "netft vip move web n2",
        "netft vip remove web --json",
        "netft config check /etc/netft/netft.toml",
        "netft config show --json",
        "netft reload --dry-run",
        "netft key generate /tmp/x --force",
        "netft key rotate --no-wait",
        "netft key rotate --abort",
        "netft completions bash",
        "netft man /tmp/x",
        "netft init --cluster-id 7 --name n1 --id 1 --peer n2=10.0.0.2 --peer n3=10.0.0.3,fd00::3 --force",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn wrong_lines_are_told_how() {
    for (line, sentence) in [
        ("netft rutes", "routes"),
        ("netft events --since yesterday", "a duration like 10s"),
        ("netft init --peer n2", "write NAME=ADDRESS"),
        ("netft init --peer n2=host", "write NAME=ADDRESS"),
        ("netft init --id 256", "256 is not in 1..=255"),
        ("netft init --cluster-id 0", "0 is not in 1.."),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(sentence), "{line}: {error}");
    }
}

#[test]
fn without_a_daemon_every_listing_says_so() {
    for verb in ["status", "nodes", "networks", "routes", "events", "reload", "config show"] {
        let failure = run(&format!("netft --socket /nonexistent/s {verb}")).unwrap_err();
        assert_eq!(failure.status, 3);
        assert!(failure.message.starts_with("netftd isn't running"), "{verb}: {}", failure.message);
        assert!(!failure.message.contains('\n'));
    }
}

#[test]
fn init_writes_what_config_check_accepts() {
    let folder = Folder::new("init");
    let (file, secret) = (folder.file("etc/netft.toml"), folder.file("etc/secret"));
    let init =
        format!("netft --config {} init --name n1 --id 1 --cluster-id 7 --peer n2=10.0.0.2", file.display());
    run(&init).unwrap();
    run(&format!("netft config check {}", file.display())).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!((config.cluster_id, config.node_id.get()), (7, 1));
    assert_eq!(config.peers["n2"].addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);

    let (before, key) = (std::fs::read(&file).unwrap(), Secret::load(&secret).unwrap());
    let failure = run(&init.replace("--id 1", "--id 9")).unwrap_err();
    assert!(failure.message.contains("--force"), "{}", failure.message);
    assert_eq!(std::fs::read(&file).unwrap(), before, "a refused init changes nothing");

    run(&(init.replace("--id 1", "--id 9") + " --force")).unwrap();
    assert_eq!(Config::load(&file).unwrap().node_id.get(), 9);
    assert_eq!(Secret::load(&secret).unwrap(), key, "--force keeps the secret");
    let names: Vec<_> = std::fs::read_dir(folder.file("etc")).unwrap().flatten().collect();
    assert_eq!(names.len(), 2, "no temporary files are left: {names:?}");
}

use std::net::IpAddr;

#[test]
fn init_without_peers_is_valid_too() {
    let folder = Folder::new("alone");
    let file = folder.file("netft.toml");
    run(&format!("netft --config {} init --name n1 --id 1", file.display())).unwrap();
    assert!(Config::load(&file).unwrap().cluster_id > 0);
}

#[test]
fn init_with_nonsense_writes_nothing() {
    let folder = Folder::new("nonsense");
    let file = folder.file("netft.toml");
    let failure = run(&format!("netft --config {} init --name n1 --id 1 --peer n1=10.0.0.1", file.display()))
        .unwrap_err();
    assert!(
        failure.message.contains("nothing was written: peer.n1 has the name of this node"),
        "{}",
        failure.message
    );
    assert!(std::fs::read_dir(Path::new(&folder.0)).unwrap().next().is_none());
}

#[test]
fn config_check_and_key_generate_tell_what_is_wrong() {
    let folder = Folder::new("check");
    let file = folder.file("netft.toml");
    std::fs::write(&file, "cluster.id = 1\nnode = { id = 1, name = \"n1\" }\n").unwrap();
    let check = format!("netft config check {}", file.display());
    let failure = run(&check).unwrap_err();
    assert_eq!(failure.status, 4);
    assert!(failure.message.contains("does not exist") && failure.message.contains("netft key generate"));
    run(&format!("netft --config {} key generate", file.display())).unwrap();
    run(&check).unwrap();
    let failure = run(&format!("netft --config {} key generate", file.display())).unwrap_err();
    assert!(failure.message.contains("--force"));
}

#[test]
fn man_pages_exist_for_every_verb() {
    let folder = Folder::new("man");
    run(&format!("netft man {}", folder.0.display())).unwrap();
    for page in
        ["netft.1", "netft-status.1", "netft-routes.1", "netft-config-check.1", "netft-key-generate.1"]
    {
        assert!(folder.file(page).exists(), "{page}");
    }
}
