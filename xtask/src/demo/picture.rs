//! Draws a [`Timeline`]: an overview of the whole demo, and a close-up of the milliseconds after each fault, in which
//! every single record of the flows is one stroke.

use super::svg::{Anchor, Style, Svg};
use super::timeline::{Fault, FlowLane, Lane, Nanos, Shade, Timeline};

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 32.0;
const LABELS: f64 = 150.0;
const LANE: f64 = 22.0;
const STRIP: f64 = 12.0;
const CARD_GAP: f64 = 20.0;
const CARDS_PER_ROW: usize = 2;
const CARD_LABELS: f64 = 112.0;

const GROUND: &str = "#0f1720";
const CARD: &str = "#16212d";
const EDGE: &str = "#26364a";
const GRID: &str = "#223042";
const INK: &str = "#e8eef5";
const SOFT: &str = "#9db0c4";
const UP: &str = "#2b5f8c";
const ACTIVE: &str = "#4cc2ff";
const STALLED: &str = "#f2b134";
const DOWN: &str = "#ef5b5b";
const UDP: &str = "#7ee0b5";
const TCP: &str = "#c8a6ff";

const TITLE: Style = Style { size: 24.0, fill: INK, weight: 700 };
const HEADING: Style = Style { size: 12.0, fill: SOFT, weight: 600 };
const LABEL: Style = Style { size: 13.0, fill: INK, weight: 400 };
const SMALL: Style = Style { size: 11.5, fill: SOFT, weight: 400 };
const STRONG: Style = Style { size: 14.0, fill: INK, weight: 600 };

/// Time to horizontal position.
#[derive(Clone, Copy)]
struct Scale {
    from: Nanos,
    to: Nanos,
    left: f64,
    width: f64,
}

impl Scale {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    fn x(self, at: Nanos) -> f64 {
        let at = at.clamp(self.from, self.to);
        self.left + (at - self.from) as f64 * self.width / (self.to - self.from).max(1) as f64
    }

    fn holds(self, at: Nanos) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// The whole picture as SVG text.
pub fn draw(timeline: &Timeline) -> String {
    let mut svg = Svg::new(WIDTH);
    svg.text((MARGIN, 48.0), Anchor::Start, TITLE, &timeline.title);
    svg.text((MARGIN, 70.0), Anchor::Start, Style { size: 13.5, ..SMALL }, &timeline.subtitle);
    legend(&mut svg, 98.0);
    let overview_bottom = overview(&mut svg, timeline, 126.0);
    let bottom = close_ups(&mut svg, timeline, overview_bottom + 34.0);
    svg.finish(bottom + MARGIN, GROUND)
}

fn legend(svg: &mut Svg, y: f64) {
    let entries = [
        (ACTIVE, "up, carries the traffic", 148.0),
        (UP, "up, standing by", 118.0),
        (STALLED, "engine stalled, host answers", 182.0),
        (DOWN, "down", 30.0),
    ];
    let mut x = MARGIN + LABELS;
    for (colour, text, width) in entries {
        svg.rect((x, y - 10.0), (12.0, 12.0), 3.0, colour);
        svg.text((x + 18.0, y), Anchor::Start, SMALL, text);
        x += width + 24.0;
    }
}

/// Draws it from `top` on and returns where it ends.
fn overview(svg: &mut Svg, timeline: &Timeline, top: f64) -> f64 {
    let left = MARGIN + LABELS;
    let scale = Scale { from: timeline.began, to: timeline.ended, left, width: WIDTH - MARGIN - left };
    let lanes: usize = timeline.groups.iter().map(|(_, lanes)| lanes.len()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a handful of lanes")]
    let rows = (lanes + timeline.flows.len()) as f64 * LANE + (timeline.groups.len() + 1) as f64 * 24.0;
    let bottom = top + 42.0 + rows;
    seconds(svg, timeline, scale, top + 34.0, bottom);
    for (number, fault) in timeline.faults.iter().enumerate() {
        flag(svg, fault, number + 1, scale, top, bottom);
    }
    let mut y = top + 42.0;
    for (heading, lanes) in &timeline.groups {
        svg.text((MARGIN, y + 16.0), Anchor::Start, HEADING, heading);
        y += 24.0;
        for lane in lanes {
            svg.text((left - 12.0, y + 13.0), Anchor::End, LABEL, &lane.label);
            strip(svg, lane, scale, y + 3.0);
            y += LANE;
        }
    }
    svg.text((MARGIN, y + 16.0), Anchor::Start, HEADING, "1 kHz flows over netft0");
    y += 24.0;
    for (flow, colour) in timeline.flows.iter().zip([UDP, TCP]) {
        svg.text((left - 12.0, y + 13.0), Anchor::End, LABEL, &flow.label);
        flow_strip(svg, flow, colour, scale, y + 3.0);
        y += LANE;
    }
    bottom
}

fn seconds(svg: &mut Svg, timeline: &Timeline, scale: Scale, top: f64, bottom: f64) {
    const SECOND: Nanos = 1_000_000_000;
    let count = (timeline.ended - timeline.began) / SECOND;
    let step = if count > 24 { 5 } else { 1 };
    for second in (0..=count).step_by(step) {
        let x = scale.x(timeline.began + second * SECOND);
        svg.line((x, top), (x, bottom), GRID, 1.0, "");
        svg.text((x, bottom + 16.0), Anchor::Middle, SMALL, &format!("{second} s"));
    }
}

fn flag(svg: &mut Svg, fault: &Fault, number: usize, scale: Scale, top: f64, bottom: f64) {
    let (x, end) = (scale.x(fault.began), scale.x(fault.ended));
    svg.rect((x, top + 26.0), ((end - x).max(2.0), bottom - top - 26.0), 3.0, "#ffffff0d");
    svg.line((x, top + 14.0), (x, bottom), INK, 1.0, "2 3");
    svg.rect((x - 9.0, top - 2.0), (18.0, 18.0), 9.0, INK);
    let style = Style { size: 11.5, fill: GROUND, weight: 700 };
    svg.text((x, top + 11.0), Anchor::Middle, style, &number.to_string());
    svg.text((x + 14.0, top + 11.5), Anchor::Start, Style { fill: INK, ..SMALL }, &fault.name);
}

fn colour(shade: Shade) -> &'static str {
    match shade {
        Shade::Active => ACTIVE,
        Shade::Up => UP,
        Shade::Stalled => STALLED,
        Shade::Down => DOWN,
    }
}

fn strip(svg: &mut Svg, lane: &Lane, scale: Scale, y: f64) {
    for (begin, end, shade) in lane.stretches(scale.from, scale.to) {
        let (left, right) = (scale.x(begin), scale.x(end));
        let height = if shade == Shade::Active { STRIP } else { STRIP - 6.0 };
        svg.rect((left, y + (STRIP - height) / 2.0), ((right - left).max(1.5), height), 2.0, colour(shade));
    }
}

fn flow_strip(svg: &mut Svg, flow: &FlowLane, colour: &str, scale: Scale, y: f64) {
    let (Some(first), Some(last)) = (flow.arrivals.first(), flow.arrivals.last()) else { return };
    let (left, right) = (scale.x(*first), scale.x(*last));
    svg.rect((left, y + 3.0), (right - left, STRIP - 6.0), 2.0, colour);
    for (begin, end) in &flow.outages {
        // At this scale an outage is thinner than a line: draw at least something.
        let (left, right) = (scale.x(*begin), scale.x(*end));
        svg.rect((left - 1.0, y), ((right - left).max(1.0) + 2.0, STRIP), 1.0, GROUND);
        svg.rect((left, y), ((right - left).max(1.0), STRIP), 0.0, DOWN);
    }
}

fn close_ups(svg: &mut Svg, timeline: &Timeline, top: f64) -> f64 {
    let lanes = 2 + timeline.flows.len();
    #[expect(clippy::cast_precision_loss, reason = "a handful of lanes")]
    let height = 92.0 + lanes as f64 * LANE + 34.0;
    #[expect(clippy::cast_precision_loss, reason = "two cards")]
    let width = (WIDTH - 2.0 * MARGIN - CARD_GAP * (CARDS_PER_ROW - 1) as f64) / CARDS_PER_ROW as f64;
    let mut bottom = top;
    for (number, fault) in timeline.faults.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a handful of cards")]
        let (column, row) = ((number % CARDS_PER_ROW) as f64, (number / CARDS_PER_ROW) as f64);
        let corner = (MARGIN + column * (width + CARD_GAP), top + row * (height + CARD_GAP));
        close_up(svg, timeline, fault, number + 1, corner, (width, height));
        bottom = corner.1 + height;
    }
    bottom
}

fn close_up(
    svg: &mut Svg,
    timeline: &Timeline,
    fault: &Fault,
    number: usize,
    (left, top): (f64, f64),
    (width, height): (f64, f64),
) {
    svg.frame((left, top), (width, height), 10.0, CARD, EDGE);
    svg.rect((left + 14.0, top + 14.0), (20.0, 20.0), 10.0, INK);
    let style = Style { size: 12.0, fill: GROUND, weight: 700 };
    svg.text((left + 24.0, top + 28.5), Anchor::Middle, style, &number.to_string());
    svg.text((left + 44.0, top + 29.0), Anchor::Start, STRONG, &fault.what);

    let plot = left + CARD_LABELS;
    let before = fault.close_up / 6;
    let (from, to) = (fault.began - before, fault.began + fault.close_up);
    let scale = Scale { from, to, left: plot, width: left + width - 18.0 - plot };
    // At most half of the room that a record per millisecond has.
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    let stroke = (scale.width * 0.5e6 / (to - from) as f64).clamp(0.5, 1.6);
    let (first, last) = (top + 66.0, top + height - 54.0);
    let moments = [(fault.began, "fault".to_string(), INK)];
    let detected = fault.detected.iter().map(|(at, what)| (*at, what.clone(), STALLED));
    for (index, (at, what, ink)) in moments.into_iter().chain(detected).enumerate() {
        if !scale.holds(at) {
            continue;
        }
        let x = scale.x(at);
        svg.line((x, first - 8.0), (x, last + 2.0), ink, 1.2, if index == 0 { "2 3" } else { "" });
        // Two labels close to each other read outwards, and none leaves the card.
        let leftwards = index == 0 || x > scale.left + scale.width * 0.6;
        let (anchor, x) = if leftwards { (Anchor::End, x + 2.0) } else { (Anchor::Start, x - 2.0) };
        svg.text((x, first - 13.0), anchor, Style { fill: ink, ..SMALL }, &what);
    }
    let mut y = first;
    for lane in lanes_of(timeline, fault) {
        svg.text((plot - 10.0, y + 10.5), Anchor::End, SMALL, &lane.label);
        strip(svg, lane, scale, y);
        y += LANE;
    }
    for (flow, ink) in timeline.flows.iter().zip([UDP, TCP]) {
        svg.text((plot - 10.0, y + 10.5), Anchor::End, SMALL, &flow.label);
        for (begin, end) in flow.outages.iter().filter(|(begin, end)| *begin < to && *end > from) {
            let (x1, x2) = (scale.x(*begin), scale.x(*end));
            svg.rect((x1, y), (x2 - x1, STRIP), 2.0, "#ef5b5b33");
        }
        let shown = flow.arrivals.iter().filter(|at| scale.holds(**at)).map(|at| scale.x(*at));
        svg.ticks(shown, y, STRIP, ink, stroke);
        y += LANE;
    }
    ruler(svg, fault, scale, last + 6.0);
    svg.text((left + 18.0, top + height - 14.0), Anchor::Start, Style { fill: INK, ..SMALL }, &fault.verdict);
}

fn lanes_of<'a>(timeline: &'a Timeline, fault: &Fault) -> Vec<&'a Lane> {
    let all = timeline.groups.iter().flat_map(|(_, lanes)| lanes);
    all.filter(|lane| fault.lanes.contains(&lane.label)).collect()
}

fn ruler(svg: &mut Svg, fault: &Fault, scale: Scale, y: f64) {
    const MILLISECOND: Nanos = 1_000_000;
    let span = (fault.close_up / MILLISECOND).saturating_sub(1);
    let step =
        [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].into_iter().find(|step| span / step <= 8).unwrap_or(2000);
    for tick in (0..=span / step).map(|tick| tick * step) {
        let x = scale.x(fault.began + tick * MILLISECOND);
        svg.line((x, y - 2.0), (x, y + 3.0), SOFT, 1.0, "");
        svg.text((x, y + 15.0), Anchor::Middle, SMALL, &format!("{tick} ms"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn sample() -> Timeline {
        let start = 100_000 * MS;
        let at = |ms: u64| start + ms * MS;
        let cut = at(3000);
        let lanes = vec![
            Lane {
                label: "n1 – n2  net1".into(),
                changes: vec![
                    (at(300), Shade::Active),
                    (cut + 5_300_000, Shade::Down),
                    (at(4500), Shade::Up),
                    (at(5500), Shade::Active),
                ],
            },
            Lane {
                label: "n1 – n2  net2".into(),
                changes: vec![(at(300), Shade::Up), (cut + 5_310_000, Shade::Active), (at(5500), Shade::Up)],
            },
        ];
        let nodes = vec![Lane {
            label: "n2".into(),
            changes: vec![(at(300), Shade::Up), (at(7000), Shade::Stalled)],
        }];
        let arrivals: Vec<Nanos> = (500..9000).map(at).filter(|t| !(cut..cut + 6 * MS).contains(t)).collect();
        let flow = |label: &str| FlowLane {
            label: label.into(),
            outages: vec![(cut, cut + 6 * MS)],
            arrivals: arrivals.clone(),
        };
        let fault = |name: &str, ms: u64| Fault {
            name: name.into(),
            what: format!("{name}: n2 loses net1, carrier stays"),
            began: at(ms),
            ended: at(ms + 1500),
            detected: Some((at(ms) + 5_300_000, "5.3 ms: route down".into())),
            close_up: 24 * MS,
            lanes: vec!["n1 – n2  net1".into(), "n1 – n2  net2".into()],
            verdict: "UDP: 5 lost, out for 6.1 ms · TCP: stalled 11 ms".into(),
        };
        Timeline {
            title: "netft demo".into(),
            subtitle: "three nodes, two networks".into(),
            began: start,
            ended: at(10_000),
            groups: vec![("routes".into(), lanes), ("engines".into(), nodes)],
            flows: vec![flow("UDP"), flow("TCP")],
            faults: vec![fault("silent cut", 3000), fault("unplug", 5000), fault("freeze", 7000)],
        }
    }

    #[test]
    fn the_picture_is_well_formed_and_shows_every_fault() {
        let svg = draw(&sample());
        if let Some(path) = std::env::var_os("NETFT_SAMPLE_SVG") {
            std::fs::write(path, &svg).unwrap();
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        for shown in ["silent cut", "unplug", "freeze", "5.3 ms: route down"] {
            assert!(svg.contains(shown), "{shown}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
