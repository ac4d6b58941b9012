use std::fmt::Write;
use std::path::PathBuf;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;
use crate::cli::top::model::tests::{model, recorded};
use crate::cli::top::model::{Input, Key};

const PLAIN: Theme = Theme { has_colour: false };
const COLOURED: Theme = Theme { has_colour: true };

fn drawn(model: &Model, theme: Theme, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in 0..buffer.area.height {
        let line: String =
            (0..buffer.area.width).map(|column| buffer[(column, row)].symbol()).collect();
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    text
}

/// Compares with a file of the repository; with `UPDATE_PAGES` set, writes it.
fn compare(path: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_PAGES").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{} is another screen now; `UPDATE_PAGES=1 cargo test -p ipcluster --lib cli::top` writes it anew:\n{found}",
        path.display()
    );
}

fn compare_screen(name: &str, buffer: &Buffer) {
    compare(&format!("src/cli/top/view/tests/{name}.txt"), &text(buffer));
}

#[test]
fn a_small_screen() {
    compare_screen("80x24", &drawn(&model(), PLAIN, 80, 24));
}

#[test]
fn a_wide_screen() {
    compare_screen("160x40", &drawn(&model(), PLAIN, 160, 40));
}

#[test]
fn a_question_and_help() {
    let mut model = model();
    model.update(Input::Key(Key::Char('?')));
    model.update(Input::Key(Key::Char('r')));
    compare_screen("question", &drawn(&model, PLAIN, 80, 24));
}

#[test]
fn a_master_that_is_gone() {
    let mut model = Model::new();
    model.update(Input::Lost("no master of cluster web runs".to_owned()));
    compare_screen("gone", &drawn(&model, PLAIN, 60, 12));
}

#[test]
fn the_picture_in_the_documentation_is_what_is_shown() {
    compare("docs/images/top.svg", &picture(&drawn(&model(), COLOURED, 100, 26)));
}

#[test]
fn any_size_can_be_drawn() {
    let mut full = model();
    let mut status = recorded(41);
    status.workers = (0..600).flat_map(|_| status.workers.clone()).collect();
    full.update(Input::Status(Box::new(status), 41.0));
    for model in [&Model::new(), &model(), &full] {
        for (width, height) in [(1, 1), (2, 50), (300, 2), (20, 5), (79, 23), (300, 100)] {
            for theme in [PLAIN, COLOURED] {
                drawn(model, theme, width, height);
            }
        }
    }
}

#[test]
fn workers_that_do_not_fit_are_counted() {
    let mut model = model();
    let mut status = recorded(41);
    status.workers = (0..5).flat_map(|_| status.workers.clone()).collect();
    let count = status.workers.len();
    model.update(Input::Status(Box::new(status), 41.0));
    let shown = |model: &Model, width| text(&drawn(model, PLAIN, width, 24));
    let rows = |text: &str| text.lines().filter(|line| line.contains(" live ")).count();
    for width in [80, 160] {
        let first = shown(&model, width);
        assert!(first.contains(" more rows below (up, down)"), "{first}");
        assert!(rows(&first) < count && !first.contains(" above"), "{first}");
    }
    for _ in 0..count {
        model.update(Input::Key(Key::Down));
    }
    let last = shown(&model, 80);
    assert!(last.contains(" more rows above (up, down)") && !last.contains("below"), "{last}");
}

#[test]
fn without_colours_none_is_used_and_with_them_no_background_but_that_of_seats() {
    let plain = drawn(&model(), PLAIN, 80, 24);
    assert!(plain.content.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    let coloured = drawn(&model(), COLOURED, 80, 24);
    for cell in &coloured.content {
        assert!(cell.bg == Color::Reset || cell.fg == Color::Black, "{cell:?}");
        // They cannot be read on a light background, or on a dark one.
        let is_hard_to_read =
            matches!(cell.fg, Color::White | Color::Yellow | Color::Gray | Color::LightYellow);
        assert!(!is_hard_to_read, "{cell:?}");
    }
}

/// A screen as a picture, in colours that a terminal may have.
fn picture(buffer: &Buffer) -> String {
    const CELL: (u16, u16) = (9, 19);
    let (width, height) = (buffer.area.width * CELL.0 + 24, buffer.area.height * CELL.1 + 24);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"15\">\n\
         <title>ipcluster top</title>\n<rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#16191f\"/>\n"
    );
    for row in 0..buffer.area.height {
        let mut column = 0;
        while column < buffer.area.width {
            let style = buffer[(column, row)].style();
            let first = column;
            let mut run = String::new();
            while column < buffer.area.width && buffer[(column, row)].style() == style {
                run.push_str(buffer[(column, row)].symbol());
                column += 1;
            }
            write_run(&mut svg, (first, row), CELL, &run, style);
        }
    }
    svg + "</svg>\n"
}

fn write_run(svg: &mut String, place: (u16, u16), cell: (u16, u16), run: &str, style: Style) {
    let (x, y) = (place.0 * cell.0 + 12, place.1 * cell.1 + 12);
    let length = u16::try_from(run.chars().count()).unwrap() * cell.0;
    let has = |modifier| style.add_modifier.contains(modifier);
    let mut colours = (colour(style.fg, "#d7dae0"), colour(style.bg, "none"));
    if has(Modifier::REVERSED) {
        colours = ("#16191f", "#d7dae0");
    }
    if colours.1 != "none" {
        let (x, height) = (x, cell.1);
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{length}\" height=\"{height}\" fill=\"{}\"/>",
            colours.1
        )
        .unwrap();
    }
    if run.trim().is_empty() {
        return;
    }
    let mut more = String::new();
    if has(Modifier::BOLD) {
        more.push_str(" font-weight=\"bold\"");
    }
    if has(Modifier::DIM) {
        more.push_str(" opacity=\"0.65\"");
    }
    if has(Modifier::UNDERLINED) {
        more.push_str(" text-decoration=\"underline\"");
    }
    let escaped = run.replace('&', "&amp;").replace('<', "&lt;");
    let baseline = y + 14;
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{baseline}\" textLength=\"{length}\" fill=\"{}\" xml:space=\"preserve\"{more}>{escaped}</text>",
        colours.0
    )
    .unwrap();
}

fn colour(colour: Option<Color>, otherwise: &'static str) -> &'static str {
    match colour {
        Some(Color::Black) => "#16191f",
        Some(Color::Red) => "#f2766b",
        Some(Color::Green) => "#7ccf8a",
        Some(Color::Blue) => "#6ea8fe",
        Some(Color::Magenta) => "#d59bf0",
        Some(Color::LightBlue) => "#8ab8ff",
        Some(Color::LightYellow) => "#f0d98c",
        Some(Color::LightGreen) => "#9be3a6",
        Some(Color::LightMagenta) => "#e6b3f5",
        Some(Color::LightCyan) => "#93e1e6",
        Some(Color::LightRed) => "#f7a39b",
        _ => otherwise,
    }
}
