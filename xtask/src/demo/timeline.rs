//! What happened during a demo, ready to be drawn: who was in which state when, and which records arrived when.

/// Nanoseconds of CLOCK_BOOTTIME.
pub type Nanos = u64;

/// How a stretch of a lane is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shade {
    /// Working, and carrying cluster traffic.
    Active,
    /// Working.
    Up,
    /// The host answers, the engine doesn't.
    Stalled,
    /// Not working.
    Down,
}

/// One horizontal strip: a route or a node.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Shown at its left.
    pub label: String,
    /// State changes in order: from then on it is in that state.
    pub changes: Vec<(Nanos, Shade)>,
}

impl Lane {
    /// The stretches of `from..to` with their shades.
    pub fn stretches(&self, from: Nanos, to: Nanos) -> Vec<(Nanos, Nanos, Shade)> {
        let ends = self.changes.iter().skip(1).map(|(at, _)| *at).chain([Nanos::MAX]);
        self.changes
            .iter()
            .zip(ends)
            .map(|((begin, shade), end)| ((*begin).max(from), end.min(to), *shade))
            .filter(|(begin, end, _)| begin < end)
            .collect()
    }
}

/// A flow of records.
#[derive(Clone, Debug)]
pub struct FlowLane {
    /// Shown at its left.
    pub label: String,
    /// Arrival-free stretches that deserve a mark.
    pub outages: Vec<(Nanos, Nanos)>,
    /// Every arrival.
    pub arrivals: Vec<Nanos>,
}

/// A fault: a flag in the overview, and a close-up of its first milliseconds.
#[derive(Clone, Debug)]
pub struct Fault {
    /// One or two words.
    pub name: String,
    /// What was done, in a few words.
    pub what: String,
    /// When it took effect.
    pub began: Nanos,
    /// When it was ended.
    pub ended: Nanos,
    /// When it was detected, and what the detection says.
    pub detected: Option<(Nanos, String)>,
    /// How much time the close-up shows after `began`.
    pub close_up: Nanos,
    /// Labels of the lanes that the close-up shows.
    pub lanes: Vec<String>,
    /// One line below the close-up.
    pub verdict: String,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Headline.
    pub title: String,
    /// The line below it.
    pub subtitle: String,
    /// The overview's left edge.
    pub began: Nanos,
    /// The overview's right edge.
    pub ended: Nanos,
    /// Lanes in groups: (heading, lanes).
    pub groups: Vec<(String, Vec<Lane>)>,
    /// Flows.
    pub flows: Vec<FlowLane>,
    /// Faults in order.
    pub faults: Vec<Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_cut_to_the_window() {
        let lane =
            Lane { label: String::new(), changes: vec![(10, Shade::Up), (20, Shade::Down), (30, Shade::Up)] };
        assert_eq!(lane.stretches(15, 25), [(15, 20, Shade::Up), (20, 25, Shade::Down)]);
        assert_eq!(lane.stretches(0, 12), [(10, 12, Shade::Up)]);
    }
}
