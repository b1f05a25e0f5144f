//! Who sends and who answers, and how both wait.

use std::fmt;

/// How a thread gets at frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// The kernel's UDP socket.
    Udp,
    /// netft's AF_XDP socket.
    Xsk,
}

/// How a thread waits for a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// In the kernel.
    Block,
    /// By asking over and over.
    Spin,
}

/// How the kernel schedules a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Ordinary,
    /// SCHED_FIFO 55: above the hogs, below netft.
    Prompt,
}

/// A thread that sends back what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub stack: Stack,
    pub wait: Wait,
    pub class: Class,
}

/// One way to a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    /// How the client gets at frames.
    pub stack: Stack,
    /// How it waits.
    pub wait: Wait,
    /// `None` = XDP answers.
    pub echo: Option<Echo>,
}

impl Variant {
    /// A client of XDP's replies.
    pub const fn xdp(stack: Stack, wait: Wait) -> Self {
        Self { stack, wait, echo: None }
    }

    /// A client of an echo by the same kind of socket.
    pub const fn echo(stack: Stack, wait: Wait, echo: Wait, class: Class) -> Self {
        Self { stack, wait, echo: Some(Echo { stack, wait: echo, class }) }
    }

    /// XDP's reply to a client that waits like this one, by `stack`.
    pub fn rival(&self, stack: Stack) -> Self {
        Self::xdp(stack, self.wait)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Xsk => "af_xdp",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "blocks",
            Self::Spin => "spins",
        })
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > ", self.stack, self.wait)?;
        match self.echo {
            None => write!(f, "xdp"),
            Some(Echo { stack, wait, class: Class::Ordinary }) => write!(f, "{stack} {wait}"),
            Some(Echo { stack, wait, class: Class::Prompt }) => write!(f, "{stack} {wait}, fifo"),
        }
    }
}

/// Every pair of waits, for all `stacks`, each in turn.
pub(super) fn idle(stacks: &[Stack]) -> Vec<Variant> {
    use Wait::{Block, Spin};
    let mut variants = Vec::new();
    for stack in stacks {
        variants.extend([Block, Spin].map(|wait| Variant::xdp(*stack, wait)));
    }
    for stack in stacks {
        for (client, echo) in [(Block, Block), (Block, Spin), (Spin, Block), (Spin, Spin)] {
            variants.push(Variant::echo(*stack, client, echo, Class::Ordinary));
        }
    }
    variants
}

/// Both ends waiting alike, the echo above the load and beside it.
pub(super) fn under_load() -> Vec<Variant> {
    let stacks = [Stack::Udp, Stack::Xsk];
    let waits = [Wait::Block, Wait::Spin];
    let mut variants = Vec::new();
    for stack in stacks {
        variants.extend(waits.map(|wait| Variant::xdp(stack, wait)));
    }
    for stack in stacks {
        for class in [Class::Prompt, Class::Ordinary] {
            variants.extend(waits.map(|wait| Variant::echo(stack, wait, wait, class)));
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_have_names_of_their_own() {
        for variants in [idle(&[Stack::Udp, Stack::Xsk]), under_load()] {
            assert_eq!(variants.len(), 12);
            let mut names: Vec<_> = variants.iter().map(ToString::to_string).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 12, "{names:?}");
        }
    }

    #[test]
    fn every_echo_has_both_rivals() {
        for variants in [idle(&[Stack::Udp, Stack::Xsk]), under_load()] {
            for echo in variants.iter().filter(|variant| variant.echo.is_some()) {
                for stack in [Stack::Udp, Stack::Xsk] {
                    assert!(variants.contains(&echo.rival(stack)), "{echo}");
                }
            }
        }
    }
}
