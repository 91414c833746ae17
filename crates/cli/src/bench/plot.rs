//! Plots as SVG.

use plotters::coord::ranged1d::{AsRangedCoord, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use sordino::{Error, Result};

/// Points with a name.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Title and axes.
pub(crate) struct Axes<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) log_x: bool,
    pub(crate) log_y: bool,
}

const SIZE: (u32, u32) = (860, 480);
const COLORS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(127, 127, 127),
];

fn fault(e: impl std::fmt::Display) -> Error {
    Error::Session(format!("cannot draw the plot: {e}"))
}

/// A range that holds all values, with some room.
fn range(values: impl Iterator<Item = f64>, log: bool) -> std::ops::Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for v in values.filter(|v| v.is_finite() && (!log || *v > 0.0)) {
        (low, high) = (low.min(v), high.max(v));
    }
    match (low <= high, log) {
        (false, _) => 0.1..1.0,
        (true, true) => low / 1.6..high * 1.6,
        (true, false) => {
            let room = (high - low).max(high.abs() * 0.1).max(1e-12) * 0.06;
            low - room..high + room
        }
    }
}

/// Lines through points.
pub(crate) fn lines(axes: &Axes<'_>, series: &[Series]) -> Result<String> {
    let points = || series.iter().flat_map(|s| &s.points);
    let x = range(points().map(|p| p.0), axes.log_x);
    let y = range(points().map(|p| p.1), axes.log_y);
    match (axes.log_x, axes.log_y) {
        (false, false) => draw(axes, series, x, y),
        (false, true) => draw(axes, series, x, y.log_scale()),
        (true, false) => draw(axes, series, x.log_scale(), y),
        (true, true) => draw(axes, series, x.log_scale(), y.log_scale()),
    }
}

fn draw<X, Y>(axes: &Axes<'_>, series: &[Series], x: X, y: Y) -> Result<String>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(fault)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(axes.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(74)
            .build_cartesian_2d(x, y)
            .map_err(fault)?;
        let label = |v: &f64| number(*v);
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(WHITE.mix(0.0))
            .draw()
            .map_err(fault)?;
        for (i, s) in series.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let keep = |p: &&(f64, f64)| (!axes.log_x || p.0 > 0.0) && (!axes.log_y || p.1 > 0.0);
            let points: Vec<(f64, f64)> = s.points.iter().filter(keep).copied().collect();
            if points.len() <= 60 {
                let dots = points.iter().map(|&p| Circle::new(p, 3, color.filled()));
                chart.draw_series(dots).map_err(fault)?;
            }
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .map_err(fault)?
                .label(&s.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(fault)?;
        root.present().map_err(fault)?;
    }
    Ok(svg)
}

/// A value on an axis, short.
fn number(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if !(1e-4..1e6).contains(&a) => format!("{v:.0e}"),
        a if a >= 10.0 => format!("{v:.0}"),
        a if a >= 0.1 => format!("{}", (v * 100.0).round() / 100.0),
        _ => format!("{v:.4}"),
    }
}

/// Positions of categories on the axis below bars.
struct Categories(std::ops::Range<f64>, usize);

impl Ranged for Categories {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let at = (value - self.0.start) / (self.0.end - self.0.start);
        limit.0 + (at * f64::from(limit.1 - limit.0)) as i32
    }
    fn key_points<H: plotters::coord::ranged1d::KeyPointHint>(&self, _: H) -> Vec<f64> {
        (0..self.1).map(|i| i as f64).collect()
    }
    fn range(&self) -> std::ops::Range<f64> {
        self.0.clone()
    }
}

impl ValueFormatter<f64> for Categories {}

/// Bars on a logarithmic axis: for each category one of each series, where it has a value.
pub(crate) fn bars(title: &str, unit: &str, names: &[String], series: &[(&str, Vec<Option<f64>>)]) -> Result<String> {
    let values = || series.iter().flat_map(|s| s.1.iter().flatten().copied());
    let y = range(values(), true);
    let floor = y.start;
    let mut svg = String::new();
    {
        let root =
            SVGBackend::with_string(&mut svg, (SIZE.0.max(90 + 84 * names.len() as u32), SIZE.1)).into_drawing_area();
        root.fill(&WHITE).map_err(fault)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(74)
            .build_cartesian_2d(Categories(-0.6..names.len() as f64 - 0.4, names.len()), y.log_scale())
            .map_err(fault)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_desc(unit)
            .x_label_formatter(&|v| names.get(v.round() as usize).cloned().unwrap_or_default())
            .y_label_formatter(&|v| number(*v))
            .x_label_style(("sans-serif", 10))
            .light_line_style(WHITE.mix(0.0))
            .draw()
            .map_err(fault)?;
        let width = 0.8 / series.len() as f64;
        for (i, (name, values)) in series.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let bars = values.iter().enumerate().filter_map(|(j, v)| {
                let left = j as f64 - 0.4 + i as f64 * width;
                v.map(|v| Rectangle::new([(left, floor), (left + width * 0.92, v)], color.filled()))
            });
            chart
                .draw_series(bars)
                .map_err(fault)?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(fault)?;
        root.present().map_err(fault)?;
    }
    Ok(svg)
}
