//! Plots as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, IntoLogRange, LineSeries, Palette, Palette99,
    RGBColor, Rectangle, SVGBackend, SeriesLabelPosition, Text, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoFont, IntoTextStyle};

const OURS: RGBColor = RGBColor(0, 98, 155);
const OTHERS: RGBColor = RGBColor(150, 150, 150);

/// One value of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) is_ours: bool,
}

/// Draws a bar for each value, the first on top, and writes the value behind it. The scale is logarithmic
/// where the largest is more than 100 times the smallest.
pub(crate) fn bars(
    path: &Path,
    title: &str,
    bars: &[Bar],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let height = 60 + 24 * u32::try_from(bars.len())?;
    let largest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let smallest = bars.iter().map(|bar| bar.value).fold(largest, f64::min).max(largest / 1e6);
    let is_logarithmic = largest > 100.0 * smallest;
    let length = |value: f64| match is_logarithmic {
        true => (value.max(smallest) / smallest * 2.0).ln() / (largest / smallest * 2.0).ln(),
        false => value / largest,
    };
    let root = SVGBackend::new(path, (760, height)).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let title = match is_logarithmic {
        true => format!("{title} (logarithmic)"),
        false => title.to_owned(),
    };
    let rows = bars.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .set_label_area_size(plotters::prelude::LabelAreaPosition::Left, 230)
        .build_cartesian_2d(0.0..1.25, 0.0..rows)
        .map_err(|error| failed(&error))?;
    let font = ("sans-serif", 14).into_font();
    let left = font.clone().into_text_style(&root).pos(Pos::new(HPos::Right, VPos::Center));
    let right = font.into_text_style(&root).pos(Pos::new(HPos::Left, VPos::Center)).color(&BLACK);
    for (row, bar) in bars.iter().enumerate() {
        let top = rows - row as f64;
        let color = if bar.is_ours { OURS } else { OTHERS };
        let end = length(bar.value);
        let decimals = if bar.value < 10.0 { 2 } else { 0 };
        let shape = Rectangle::new([(0.0, top - 0.85), (end, top - 0.15)], color.filled());
        chart.draw_series([shape]).map_err(|error| failed(&error))?;
        let value =
            Text::new(format!("{:.decimals$}", bar.value), (end + 0.01, top - 0.5), right.clone());
        chart.draw_series([value]).map_err(|error| failed(&error))?;
        let (x, y) = chart.backend_coord(&(0.0, top - 0.5));
        let name = Text::new(bar.name.clone(), (x - 8, y), left.clone());
        root.draw(&name).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))?;
    Ok(())
}

/// A line of a plot: its name, and for each number a value.
pub(crate) type Line = (&'static str, Vec<(f64, f64)>);

/// Draws lines with logarithmic scales: what is linear rises as steeply as the diagonal of a decade.
pub(crate) fn lines(
    path: &Path,
    what: &str,
    lines: &[Line],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = || all().map(of);
        values().fold(f64::MAX, f64::min)..values().fold(f64::MIN_POSITIVE, f64::max)
    };
    let (x, y) = (range(|point| point.0), range(|point| point.1));
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let root = SVGBackend::new(path, (760, 460)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .set_label_area_size(plotters::prelude::LabelAreaPosition::Left, 60)
        .set_label_area_size(plotters::prelude::LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d((x.start..x.end).log_scale(), (y.start / 2.0..y.end * 2.0).log_scale())
        .map_err(|error| failed(&error))?;
    chart.configure_mesh().x_desc(what).draw().map_err(|error| failed(&error))?;
    for (number, (name, points)) in lines.iter().enumerate() {
        let color = Palette99::pick(number).stroke_width(2);
        let series = LineSeries::new(points.iter().copied(), color);
        let drawn = chart.draw_series(series.point_size(2)).map_err(|error| failed(&error))?;
        drawn
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 14, y + 1)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| failed(&error))?;
    root.present().map_err(|error| failed(&error))?;
    Ok(())
}
