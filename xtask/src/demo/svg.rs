//! The few SVG elements that the timeline needs, written as text.

use std::fmt::Write;

/// An SVG document in the making.
pub struct Svg {
    body: String,
    width: f64,
}

/// Where a text's anchor point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Pixels.
    pub size: f64,
    /// Colour.
    pub fill: &'static str,
    /// CSS weight.
    pub weight: u32,
}

impl Svg {
    /// An empty document.
    pub fn new(width: f64) -> Self {
        Self { body: String::new(), width }
    }

    /// A rectangle with rounded corners.
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), radius: f64, fill: &str) {
        self.element(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{radius}" fill="{fill}"/>"#
        ));
    }

    /// A rectangle's outline.
    pub fn frame(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        radius: f64,
        fill: &str,
        stroke: &str,
    ) {
        self.element(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>"#
        ));
    }

    /// A straight line; `dash` as in `stroke-dasharray`, empty for none.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str, width: f64, dash: &str) {
        self.element(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{stroke}" stroke-width="{width}" stroke-dasharray="{dash}"/>"#
        ));
    }

    /// Many short vertical strokes of one colour, as one path.
    pub fn ticks(&mut self, xs: impl Iterator<Item = f64>, top: f64, height: f64, stroke: &str, width: f64) {
        let mut path = String::new();
        for x in xs {
            // Writing to a String can't fail.
            let _ = write!(path, "M{x:.1} {top:.1}v{height:.1}");
        }
        if !path.is_empty() {
            self.element(format_args!(
                r#"<path d="{path}" stroke="{stroke}" stroke-width="{width}" fill="none"/>"#
            ));
        }
    }

    /// A text on one line.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, style: Style, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let Style { size, fill, weight } = style;
        self.element(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{fill}" font-weight="{weight}">{text}</text>"#
        ));
    }

    /// The document, `height` pixels high, on a card of colour `ground`.
    pub fn finish(self, height: f64, ground: &str) -> String {
        let Self { body, width } = self;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="Inter, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif">
<rect width="{width:.0}" height="{height:.0}" rx="14" fill="{ground}"/>
{body}</svg>
"#
        )
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String can't fail.
        let _ = writeln!(self.body, "{element}");
    }
}
