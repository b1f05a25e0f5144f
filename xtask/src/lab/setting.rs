//! `--set KEY=VALUE`: one change to every node's configuration.

use anyhow::{Context, Result, bail};
use std::str::FromStr;
use toml::{Table, Value};

/// A dotted key and the value that it gets in every node's `netft.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    path: Vec<String>,
    value: Value,
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((key, value)) = split(text) else {
            bail!("--set {text:?}: use KEY=VALUE, for example --set 'heartbeat.same_subnet.delay=\"200us\"'");
        };
        let path = parse_key(key).with_context(|| format!("--set {text:?}: {key:?} is no TOML key"))?;
        let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("value"));
        let Some(value) = parsed else {
            bail!(
                "--set {text:?}: {value} is no TOML value; if it is text, quote it: --set '{key}=\"{value}\"'"
            );
        };
        Ok(Self { path, value })
    }
}

impl Setting {
    /// Puts the value into `table`, replacing what was there.
    pub fn apply(&self, table: &mut Table) -> Result<()> {
        let Some((leaf, above)) = self.path.split_last() else { return Ok(()) };
        let mut table = table;
        for part in above {
            let entry = table.entry(part.clone()).or_insert_with(|| Value::Table(Table::new()));
            table = entry
                .as_table_mut()
                .with_context(|| format!("--set {}: {part} is a value, not a table", self.path.join(".")))?;
        }
        table.insert(leaf.clone(), self.value.clone());
        Ok(())
    }
}

/// At the first `=` outside quotes.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (None, '=') => return Some((text[..at].trim(), text[at + 1..].trim())),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
    }
    None
}

fn parse_key(key: &str) -> Result<Vec<String>> {
    let mut table = format!("{key} = 0").parse::<Table>()?;
    let mut path = Vec::new();
    loop {
        let Some((part, value)) = std::mem::take(&mut table).into_iter().next() else {
            bail!("the key is empty");
        };
        path.push(part);
        match value {
            Value::Table(below) => table = below,
            _ => return Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(base: &str, set: &str) -> String {
        let mut table: Table = base.parse().unwrap();
        set.parse::<Setting>().unwrap().apply(&mut table).unwrap();
        toml::to_string(&table).unwrap()
    }

    #[test]
    fn a_value_of_any_type_is_put_at_a_dotted_key() {
        let text = applied("", "vip.web.addresses=[\"10.77.2.100/24\"]");
        assert_eq!(text, "[vip.web]\naddresses = [\"10.77.2.100/24\"]\n");
        assert_eq!(applied("[a]\nb = 1\n", "a.b = {c = 2}"), "[a.b]\nc = 2\n");
        assert_eq!(applied("", "network.\"a = b\".role=3"), "[network.\"a = b\"]\nrole = 3\n");
    }

    #[test]
    fn mistakes_are_named_with_the_way_out() {
        let error = |text: &str| text.parse::<Setting>().unwrap_err().to_string();
        assert!(error("engine.wait").contains("use KEY=VALUE"));
        assert!(
            error("engine.wait=spin").contains("--set 'engine.wait=\"spin\"'"),
            "{}",
            error("engine.wait=spin")
        );
        assert!(error("a..b=1").contains("no TOML key"));
        let mut table: Table = "a = 1".parse().unwrap();
        let error = "a.b=1".parse::<Setting>().unwrap().apply(&mut table).unwrap_err().to_string();
        assert!(error.contains("a is a value"), "{error}");
    }
}
