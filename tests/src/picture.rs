//! Panels drawn as SVG, from the data of a Prometheus.
//!
//! In: frames with places, titles and numbers. Out: the text of one picture. It is no Grafana and
//! does not look like it in each detail; the numbers are the same.

use std::fmt::Display;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    AreaSeries, Cartesian2d, DrawingArea, IntoDrawingArea, LineSeries, RGBColor, Rectangle,
    SVGBackend, Text, WHITE,
};
use plotters::style::{Color, IntoFont, TextStyle};

/// Pixels of the head of a picture, and of the title of a frame.
const HEAD: i32 = 58;
const TITLE: i32 = 26;
/// Pixels of a line of text.
const LINE: i32 = 17;
/// Series that have a name below a chart; more do not fit.
const NAMED: usize = 8;

const INK: RGBColor = RGBColor(36, 41, 46);
const GREY: RGBColor = RGBColor(120, 126, 134);
const PALE: RGBColor = RGBColor(228, 231, 235);
const COLOURS: [RGBColor; 10] = [
    RGBColor(196, 55, 55),
    RGBColor(240, 140, 30),
    RGBColor(70, 120, 190),
    RGBColor(86, 160, 86),
    RGBColor(150, 95, 170),
    RGBColor(230, 190, 50),
    RGBColor(70, 170, 180),
    RGBColor(220, 120, 160),
    RGBColor(130, 100, 70),
    RGBColor(110, 110, 110),
];

type Plane<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Values over time, in seconds since the start of the run.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called below the chart.
    pub name: String,
    /// Times and values, in order.
    pub points: Vec<(f64, f64)>,
}

/// A bucket at a time.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Seconds since the start of the run.
    pub at: f64,
    /// Bounds of the bucket, in seconds.
    pub bounds: (f64, f64),
    /// Observations per second.
    pub count: f64,
}

/// What a frame shows.
#[derive(Clone, Debug)]
pub enum Chart {
    /// Lines.
    Lines(Vec<Series>),
    /// Areas on each other.
    Stack(Vec<Series>),
    /// Buckets.
    Heat(Vec<Cell>),
    /// One number.
    Number(f64),
    /// Rows of words.
    Table(Vec<Vec<String>>),
}

/// One panel.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Above it.
    pub title: String,
    /// Unit of the values, as Grafana calls it.
    pub unit: String,
    /// Left, top, width and height in pixels.
    pub place: (u32, u32, u32, u32),
    /// What is in it.
    pub chart: Chart,
}

/// A picture with its frames.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Above all.
    pub title: String,
    /// Below the title: what it is a picture of.
    pub note: String,
    /// Width and height of what is below the title, in pixels.
    pub size: (u32, u32),
    /// Seconds that are shown.
    pub seconds: (f64, f64),
    /// Between two values, in seconds.
    pub step: f64,
    /// Its panels.
    pub frames: Vec<Frame>,
}

impl Picture {
    /// Draws it.
    ///
    /// # Errors
    /// What the library says of a chart that it cannot draw.
    pub fn svg(&self) -> Result<String, String> {
        let mut text = String::new();
        let (width, height) = self.size;
        {
            let head = HEAD.unsigned_abs();
            let root =
                SVGBackend::with_string(&mut text, (width, height + head)).into_drawing_area();
            root.fill(&WHITE).map_err(said)?;
            write(&root, &self.title, (12, 8), 20.0, INK)?;
            write(&root, &self.note, (12, 34), 13.0, GREY)?;
            for frame in &self.frames {
                let (x, y, w, h) = frame.place;
                let corner = (signed(x) + 6, signed(y) + HEAD + 4);
                let area = root
                    .clone()
                    .shrink(corner, (w.saturating_sub(12), h.saturating_sub(8)));
                self.draw(&area, frame)?;
            }
            root.present().map_err(said)?;
        }
        Ok(text)
    }

    fn draw(&self, area: &Area<'_>, frame: &Frame) -> Result<(), String> {
        let (width, height) = area.dim_in_pixel();
        let border = [(0, 0), (signed(width) - 1, signed(height) - 1)];
        area.draw(&Rectangle::new(border, PALE.stroke_width(1)))
            .map_err(said)?;
        write(area, &frame.title, (8, 6), 14.0, INK)?;
        match &frame.chart {
            Chart::Number(value) => write(
                area,
                &in_unit(*value, &frame.unit),
                (12, signed(height) / 2 - 8),
                30.0,
                INK,
            ),
            Chart::Table(rows) => table(area, rows),
            Chart::Lines(series) => self.lines(area, frame, series),
            Chart::Stack(series) => self.stack(area, frame, series),
            Chart::Heat(cells) => self.heat(area, cells),
        }
    }

    /// The names of series at the foot of a frame; gives the pixels that they take.
    fn names(&self, area: &Area<'_>, series: &[Series]) -> Result<i32, String> {
        let (width, height) = area.dim_in_pixel();
        let (mut rows, mut x) = (vec![Vec::new()], 12);
        for one in series.iter().take(NAMED) {
            let colour = self.colour(&one.name);
            let wide = 30 + 7 * i32::try_from(one.name.chars().count()).unwrap_or(0);
            if x + wide > signed(width) && x > 12 {
                rows.push(Vec::new());
                x = 12;
            }
            if let Some(row) = rows.last_mut() {
                row.push((x, one.name.as_str(), colour));
            }
            x += wide;
        }
        let below = 8 + LINE * i32::try_from(rows.len()).unwrap_or(0);
        for (row, number) in rows.iter().zip(0..) {
            let y = signed(height) - below + 2 + LINE * number;
            for (x, name, colour) in row {
                area.draw(&Rectangle::new(
                    [(*x, y + 3), (x + 12, y + 11)],
                    colour.filled(),
                ))
                .map_err(said)?;
                write(area, name, (x + 18, y), 12.0, INK)?;
            }
        }
        Ok(below)
    }

    /// A name has one colour in all frames of a picture, by where it comes first.
    fn colour(&self, name: &str) -> RGBColor {
        let mut names: Vec<&str> = Vec::new();
        for frame in &self.frames {
            if let Chart::Lines(series) | Chart::Stack(series) = &frame.chart {
                for one in series {
                    if !names.contains(&one.name.as_str()) {
                        names.push(&one.name);
                    }
                }
            }
        }
        let place = names.iter().position(|known| *known == name).unwrap_or(0);
        COLOURS.get(place % COLOURS.len()).copied().unwrap_or(GREY)
    }

    fn plane<'a>(
        &self,
        area: &Area<'a>,
        below: i32,
        (low, high): (f64, f64),
        label: &dyn Fn(f64) -> String,
    ) -> Result<Plane<'a>, String> {
        let mut plane = ChartBuilder::on(area)
            .margin(6)
            .margin_top(TITLE)
            .margin_bottom(below)
            .x_label_area_size(20)
            .y_label_area_size(58)
            .build_cartesian_2d(self.seconds.0..self.seconds.1, low..high)
            .map_err(said)?;
        plane
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(PALE)
            .axis_style(GREY)
            .x_labels(8)
            .y_labels(5)
            .label_style(("sans-serif", 11.0).into_font().color(&GREY))
            .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
            .y_label_formatter(&|value| label(*value))
            .draw()
            .map_err(said)?;
        Ok(plane)
    }

    fn lines(&self, area: &Area<'_>, frame: &Frame, series: &[Series]) -> Result<(), String> {
        let top = series.iter().flat_map(|one| &one.points);
        let top = top.map(|(_, value)| *value).fold(0.0, f64::max);
        let label = |value: f64| in_unit(value, &frame.unit);
        let below = self.names(area, series)?;
        let mut plane = self.plane(area, below, (0.0, room(top)), &label)?;
        for one in series {
            let colour = self.colour(&one.name);
            // A line does not cross a gap.
            let gap = 1.5 * self.step;
            for run in one.points.chunk_by(|a, b| b.0 - a.0 < gap) {
                plane
                    .draw_series(LineSeries::new(run.iter().copied(), colour.stroke_width(2)))
                    .map_err(said)?;
            }
        }
        Ok(())
    }

    fn stack(&self, area: &Area<'_>, frame: &Frame, series: &[Series]) -> Result<(), String> {
        let steps = ((self.seconds.1 - self.seconds.0) / self.step) as usize;
        let mut sums = vec![0.0; steps + 1];
        let mut layers = Vec::new();
        for one in series {
            for (at, value) in &one.points {
                let step = ((at - self.seconds.0) / self.step).round().max(0.0) as usize;
                if let Some(sum) = sums.get_mut(step) {
                    *sum += value;
                }
            }
            layers.push(sums.clone());
        }
        let top = sums.iter().copied().fold(0.0, f64::max);
        let label = |value: f64| in_unit(value, &frame.unit);
        let below = self.names(area, series)?;
        let mut plane = self.plane(area, below, (0.0, room(top)), &label)?;
        // The highest first: each covers those above it.
        for (layer, one) in layers.iter().zip(series).rev() {
            let colour = self.colour(&one.name);
            let points = layer.iter().enumerate();
            let points = points.map(|(step, sum)| (self.seconds.0 + step as f64 * self.step, *sum));
            plane
                .draw_series(AreaSeries::new(points, 0.0, colour.filled()))
                .map_err(said)?;
        }
        Ok(())
    }

    fn heat(&self, area: &Area<'_>, cells: &[Cell]) -> Result<(), String> {
        let bounds = cells.iter().map(|cell| cell.bounds);
        let lowest = bounds.clone().map(|(low, _)| low).fold(f64::MAX, f64::min);
        let highest = bounds.map(|(_, high)| high).fold(0.0, f64::max);
        if cells.is_empty() {
            return write(area, "no data", (12, 40), 13.0, GREY);
        }
        let label = |value: f64| in_unit(10_f64.powf(value), "s");
        let range = (lowest.log10() - 0.1, highest.log10() + 0.1);
        let mut plane = self.plane(area, 6, range, &label)?;
        let most = cells.iter().map(|cell| cell.count).fold(0.0, f64::max);
        let drawn = cells.iter().map(|cell| {
            let dark = (cell.count / most).sqrt().clamp(0.0, 1.0);
            let mix = |from: f64, to: f64| (from + (to - from) * dark) as u8;
            let colour = RGBColor(mix(254.0, 150.0), mix(225.0, 40.0), mix(190.0, 10.0));
            let left = (cell.at - self.step, cell.bounds.0.log10());
            let right = (cell.at, cell.bounds.1.log10());
            Rectangle::new([left, right], colour.filled())
        });
        plane.draw_series(drawn).map_err(said)?;
        Ok(())
    }
}

fn table(area: &Area<'_>, rows: &[Vec<String>]) -> Result<(), String> {
    let (_, height) = area.dim_in_pixel();
    let fits = (signed(height) - TITLE - 6) / LINE;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        16 + 7 * i32::try_from(longest).unwrap_or(0)
    };
    for (row, number) in rows.iter().zip(0..fits.max(0)) {
        let mut x = 12;
        for (column, cell) in (0..columns).zip(row) {
            let colour = if number == 0 { GREY } else { INK };
            write(area, cell, (x, TITLE + 4 + LINE * number), 12.0, colour)?;
            x += wide(column);
        }
    }
    Ok(())
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: f64,
    colour: RGBColor,
) -> Result<(), String> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(&colour);
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(said)
}

/// A little above the highest value.
fn room(top: f64) -> f64 {
    if top > 0.0 { top * 1.1 } else { 1.0 }
}

/// A value with its unit, short.
fn in_unit(value: f64, unit: &str) -> String {
    let digits = |value: f64| match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 || middle == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    };
    match unit {
        "percentunit" => format!("{} %", digits(value * 100.0)),
        "reqps" | "ops" => format!("{}/s", digits(value)),
        "s" if value == 0.0 => "0".to_owned(),
        "s" if value < 0.001 => format!("{} µs", digits(value * 1e6)),
        "s" if value < 1.0 => format!("{} ms", digits(value * 1e3)),
        "s" => format!("{} s", digits(value)),
        _ => digits(value),
    }
}

fn signed(pixels: u32) -> i32 {
    i32::try_from(pixels).unwrap_or(i32::MAX)
}

fn said(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_have_their_unit() {
        assert_eq!(in_unit(0.1537, "percentunit"), "15 %");
        assert_eq!(in_unit(0.0004, "s"), "400 µs");
        assert_eq!(in_unit(2.5, "s"), "2.5 s");
        assert_eq!(in_unit(151.2, "reqps"), "151/s");
    }
}
