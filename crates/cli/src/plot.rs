//! Plots as SVG.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
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
        // Lines that rise leave room at the left.
        let rises = |s: &Series| s.points.first().zip(s.points.last()).is_some_and(|(a, b)| b.1 > a.1);
        let left = series.iter().filter(|s| rises(s)).count() * 2 > series.len();
        chart
            .configure_series_labels()
            .position(if left { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::MiddleRight })
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

/// Heights of a bar, the space around the bars of a name, and the width that names and values take.
const BAR: i32 = 15;
const GAP: i32 = 9;
const NAMES: i32 = 245;
const VALUES: i32 = 70;

/// Horizontal bars on a logarithmic scale, labelled with their values: under each name one for each series that has a value.
pub(crate) fn bars(title: &str, unit: &str, names: &[String], series: &[(&str, Vec<Option<f64>>)]) -> Result<String> {
    let scale = range(series.iter().flat_map(|s| s.1.iter().flatten().copied()), true);
    let (low, high) = (scale.start.ln(), scale.end.ln());
    let length = |v: f64| {
        let room = f64::from(SIZE.0 as i32 - NAMES - VALUES);
        ((v.max(scale.start).ln() - low) / (high - low).max(1e-9) * room) as i32
    };
    let present = |j: usize| series.iter().enumerate().filter_map(move |(i, s)| Some((i, s.1.get(j).copied()??)));
    let rows: Vec<usize> = (0..names.len()).filter(|&j| present(j).next().is_some()).collect();
    let bars: usize = rows.iter().map(|&j| present(j).count()).sum();
    let height = 78 + bars as i32 * BAR + rows.len() as i32 * GAP;
    let text = |size: i32| ("sans-serif", size).into_font();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (SIZE.0, height as u32)).into_drawing_area();
        root.fill(&WHITE).map_err(fault)?;
        let heading = format!("{title} ({unit}, logarithmic)");
        root.draw(&Text::new(heading, (12, 12), text(18))).map_err(fault)?;
        let mut left = 12;
        for (i, (name, _)) in series.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            root.draw(&Rectangle::new([(left, 44), (left + 12, 56)], color.filled())).map_err(fault)?;
            root.draw(&Text::new(*name, (left + 17, 43), text(13))).map_err(fault)?;
            left += 40 + 7 * name.chars().count() as i32;
        }
        let mut top = 70;
        for j in rows {
            let middle = top + present(j).count() as i32 * BAR / 2 - 7;
            root.draw(&Text::new(names[j].clone(), (12, middle), text(13))).map_err(fault)?;
            for (i, v) in present(j) {
                let end = NAMES + length(v);
                let color = COLORS[i % COLORS.len()].filled();
                root.draw(&Rectangle::new([(NAMES, top), (end, top + BAR - 2)], color)).map_err(fault)?;
                root.draw(&Text::new(number(v), (end + 5, top), text(12))).map_err(fault)?;
                top += BAR;
            }
            top += GAP;
        }
        root.present().map_err(fault)?;
    }
    Ok(svg)
}
