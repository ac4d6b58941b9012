//! The model as a screen. Pure.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::history::Series;
use super::model::{Link, Model, Prompt};
use super::sentence::Weight;
use super::text::{amount, percent, plural, rate, whole};
use crate::protocol::{Status, WorkerHealth, WorkerState, WorkerStatus, counted};

/// From this width on events stand beside the workers.
const WIDE: u16 = 130;

/// What help takes.
const HELP_ROWS: u16 = 8;

/// The look of the screen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    /// Without, bold and reversed text stands for colours.
    pub(super) has_colour: bool,
}

impl Theme {
    /// The terminal's own colours, of which none is taken for the background, and none for text that is
    /// hard to read on a light one.
    fn of(self, weight: Weight) -> Style {
        let colour = match weight {
            Weight::Plain => return Style::new(),
            Weight::Good => Color::Green,
            Weight::Warn => Color::Magenta,
            Weight::Bad => Color::Red,
        };
        match (self.has_colour, weight) {
            (true, Weight::Bad) => Style::new().fg(colour).add_modifier(Modifier::BOLD),
            (true, _) => Style::new().fg(colour),
            (false, Weight::Good) => Style::new(),
            (false, _) => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    /// The mark of a seat: its own colour, and its number is written on it.
    fn seat(self, seat: u16) -> Style {
        const COLOURS: [Color; 6] = [
            Color::LightBlue,
            Color::LightYellow,
            Color::LightGreen,
            Color::LightMagenta,
            Color::LightCyan,
            Color::LightRed,
        ];
        match self.has_colour {
            true => Style::new().fg(Color::Black).bg(COLOURS[usize::from(seat) % COLOURS.len()]),
            false if seat.is_multiple_of(2) => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        }
    }

    fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn line(self) -> Style {
        if self.has_colour { Style::new().fg(Color::Blue) } else { Style::new() }
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme) {
    let area = frame.area();
    let notices = model.status.as_ref().map(|status| notices(status, theme)).unwrap_or_default();
    let notice_rows = u16::try_from(notices.len()).unwrap_or(u16::MAX).min(4);
    let rows = u16::try_from(model.workers().len()).unwrap_or(u16::MAX);
    let is_wide = area.width >= WIDE;
    let [head, totals, slots, noticed, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(2),
        Constraint::Length(notice_rows),
        Constraint::Min(3),
        Constraint::Length(2),
    ])
    .areas(area);
    frame.render_widget(self::head(model, theme, head.width), head);
    draw_totals(frame, model, theme, totals);
    if let Some(status) = &model.status {
        let line = slots_line(status, theme, slots.width);
        frame.render_widget(Paragraph::new(line), slots);
    }
    frame.render_widget(Paragraph::new(notices), noticed);
    let [workers, events] = match is_wide {
        true => Layout::horizontal([Constraint::Min(90), Constraint::Percentage(36)]).areas(body),
        false => {
            let events = if model.is_help { HELP_ROWS } else { (body.height / 3).clamp(3, 8) };
            let workers = body.height.saturating_sub(events).min(rows.saturating_add(2));
            Layout::vertical([Constraint::Length(workers), Constraint::Min(0)]).areas(body)
        }
    };
    draw_workers(frame, model, theme, workers);
    if model.is_help {
        draw_help(frame, theme, events);
    } else {
        draw_events(frame, model, theme, events, is_wide);
    }
    frame.render_widget(Paragraph::new(self::foot(model, theme)), foot);
}

fn head(model: &Model, theme: Theme, width: u16) -> Paragraph<'static> {
    let link = match &model.link {
        Link::Waiting => Span::styled("connecting", theme.of(Weight::Warn)),
        Link::Live => Span::styled("live", theme.of(Weight::Good)),
        Link::Lost(_) => Span::styled("no master", theme.of(Weight::Bad)),
    };
    let Some(status) = &model.status else {
        return Paragraph::new(Line::from(vec![Span::styled("ipcluster ", theme.strong()), link]));
    };
    let listeners: Vec<String> = status.listeners.iter().map(ToString::to_string).collect();
    let name = format!("{} ", status.name);
    let generation = format!("generation {} ", status.generation);
    let used = name.chars().count() + generation.chars().count() + link.content.chars().count() + 1;
    let room = usize::from(width).saturating_sub(used);
    let facts = [
        listeners.join(" "),
        status.engine.to_string(),
        format!("{}/{}", status.partition, status.slots),
        format!("master {}", status.pid),
    ];
    let facts = facts.iter().fold(String::new(), |facts, fact| {
        // One that does not fit is left out whole.
        let longer = format!("{facts}  {fact}");
        if longer.chars().count() <= room { longer } else { facts }
    });
    let facts: String = facts.chars().chain(std::iter::repeat(' ')).take(room).collect();
    Paragraph::new(Line::from(vec![
        Span::styled(name, theme.strong()),
        Span::raw(generation),
        Span::styled(facts, theme.faint()),
        Span::raw(" "),
        link,
    ]))
}

fn draw_totals(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    let totals = &model.history.totals;
    let whole = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let bytes = |value: Option<f64>| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        value.map_or("-".to_owned(), |bytes| amount(bytes as u64))
    };
    let figures = [
        ("new/s", rate(totals.new.0), &totals.new.1),
        ("connections", whole(totals.connections.0), &totals.connections.1),
        ("processor", percent(totals.processor.0), &totals.processor.1),
        ("memory", bytes(totals.memory.0), &totals.memory.1),
    ];
    let areas: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4]).spacing(2).areas(area);
    for ((name, value, series), area) in figures.into_iter().zip(areas) {
        let title = Line::from(vec![
            Span::styled(value, theme.strong()),
            Span::styled(format!(" {name}"), theme.faint()),
        ]);
        let spark = Span::styled(bars(series, usize::from(area.width)), theme.line());
        frame.render_widget(Paragraph::new(vec![title, Line::from(spark)]), area);
    }
}

/// A series as bars, the newest on the right.
fn bars(series: &Series, width: usize) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = series.scaled(width, 8);
    let bar =
        |value: &u64| usize::try_from(*value).ok().and_then(|it| BARS.get(it)).unwrap_or(&'█');
    let blank = std::iter::repeat_n(' ', width.saturating_sub(values.len()));
    blank.chain(values.iter().map(bar).copied()).collect()
}

/// All slots in one line, in parts as large as those of the seats.
fn slots_line(status: &Status, theme: Theme, width: u16) -> Line<'static> {
    let live = status.workers.iter().filter(|worker| worker.slots > 0);
    let mut parts: Vec<(Option<u16>, u32)> =
        live.map(|worker| (Some(worker.seat.0), worker.slots)).collect();
    parts.sort_unstable();
    let known: u32 = parts.iter().map(|(_, slots)| slots).sum();
    let vacant = status.slots.saturating_sub(known);
    if vacant > 0 {
        parts.push((None, vacant));
    }
    let all = u64::from(status.slots.max(1));
    let (mut spans, mut from, mut slot) = (Vec::new(), 0_u64, 0_u64);
    for (seat, slots) in parts {
        slot += u64::from(slots);
        let to = slot * u64::from(width) / all;
        let room = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
        from = to;
        let (label, filler, style) = match seat {
            Some(seat) => (seat.to_string(), ' ', theme.seat(seat)),
            None => (String::from("vacant"), '░', theme.of(Weight::Bad)),
        };
        let label = if label.len() < room { format!(" {label}") } else { label };
        let text: String = match label.chars().count() <= room {
            true => label.chars().chain(std::iter::repeat(filler)).take(room).collect(),
            false => std::iter::repeat_n(filler, room).collect(),
        };
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

fn notices(status: &Status, theme: Theme) -> Vec<Line<'static>> {
    let mut notices: Vec<(Weight, String)> = Vec::new();
    if status.serving == 0 {
        notices.push((
            Weight::Bad,
            "no worker is in force: new connections are not served".to_owned(),
        ));
    }
    if let Some(probation) = &status.probation {
        let failures = plural(probation.failures, "failure");
        let standby = plural(probation.standby, "worker");
        notices.push((
            Weight::Warn,
            format!(
                "probation: generation {} for {:.0} s more, {failures}; {standby} of generation {} kept",
                probation.generation,
                probation.seconds_left.ceil(),
                probation.before
            ),
        ));
    }
    if let Some(trial) = status.trial {
        let workers = plural(trial.seats, "worker");
        let text = format!(
            "trial: generation {} has {} of {} slots, {workers}",
            trial.generation, trial.slots, status.slots
        );
        notices.push((Weight::Warn, text));
    }
    if !status.given_up.is_empty() {
        let seats: Vec<String> = status.given_up.iter().map(u16::to_string).collect();
        let text = format!("given up, since too many workers failed: seat {}", seats.join(", "));
        notices.push((Weight::Bad, text));
    }
    if let Some(full) = status.conntrack.filter(|full| full.is_nearly_full()) {
        notices.push((Weight::Bad, format!("connection tracking is {} % full", full.percent())));
    }
    if !status.foreign_chains.is_empty() {
        let count = status.foreign_chains.len();
        let text = format!("rules of others that decide before ours: {count} (`ipcluster status`)");
        notices.push((Weight::Warn, text));
    }
    let line = |(weight, text)| Line::from(Span::styled(text, theme.of(weight)));
    notices.into_iter().map(line).collect()
}

fn draw_workers(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    let has_room = area.width >= 100;
    let mut header = vec!["SEAT", "STATE", "GEN", "PID", "CONN", "NEW/S", "CPU", "MEMORY", "UP"];
    let mut widths: Vec<Constraint> = [4, 13, 4, 8, 6, 7, 6, 8, 7].map(Constraint::Length).to_vec();
    if has_room {
        header.extend(["NEW/S, HISTORY"]);
        widths.push(Constraint::Min(16));
    }
    let is_number = |place: usize| (2..9).contains(&place);
    let cell = |(place, text): (usize, String)| {
        let line = Line::from(text);
        Cell::from(if is_number(place) { line.alignment(Alignment::Right) } else { line })
    };
    let header = header.into_iter().map(str::to_owned).enumerate().map(cell);
    let history_width = usize::from(area.width.saturating_sub(74));
    let rows = model.workers().iter().map(|worker| {
        let mut cells: Vec<Cell<'_>> =
            figures(worker, model).into_iter().enumerate().map(cell).collect();
        let mark = format!("{:>3} ", worker.seat.0);
        let is_marked = worker.state == WorkerState::Live;
        cells[0] = Cell::from(Span::styled(
            mark,
            if is_marked { theme.seat(worker.seat.0) } else { Style::new() },
        ));
        let (weight, state) = state(worker);
        cells[1] = Cell::from(Span::styled(state, theme.of(weight)));
        if has_room {
            let shown = model.history.by_seat.get(&worker.seat);
            let shown = shown.filter(|_| is_marked).map(|series| bars(series, history_width));
            cells.push(Cell::from(Span::styled(shown.unwrap_or_default(), theme.line())));
        }
        let style = if is_marked || worker.state == WorkerState::Starting {
            Style::new()
        } else {
            theme.faint()
        };
        Row::new(cells).style(style)
    });
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(theme.faint()))
        .row_highlight_style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED))
        .highlight_symbol("> ");
    let mut state = TableState::new().with_selected(Some(model.chosen));
    let (count, visible) = (model.workers().len(), usize::from(area.height.saturating_sub(1)));
    if count <= visible || visible < 2 {
        frame.render_stateful_widget(table, area, &mut state);
        return;
    }
    // What does not fit is counted in the last line.
    let [area, line] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    frame.render_stateful_widget(table, area, &mut state);
    let above = state.offset();
    let below = count.saturating_sub(above + visible - 1);
    let hidden = [(above, "above"), (below, "below")].into_iter().filter(|(count, _)| *count > 0);
    let hidden: Vec<String> =
        hidden.map(|(count, place)| format!("{} {place}", counted(count, "more row"))).collect();
    let text = format!("    {} (up, down)", hidden.join(", "));
    frame.render_widget(Paragraph::new(Span::styled(text, theme.faint())), line);
}

fn figures(worker: &WorkerStatus, model: &Model) -> [String; 9] {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    [
        String::new(),
        String::new(),
        worker.generation.to_string(),
        or_dash(worker.pid.map(u64::from)),
        or_dash(worker.connections.map(u64::from)),
        rate(model.history.new_of(worker)),
        percent(model.history.processor_of(worker)),
        worker.memory.map_or("-".to_owned(), amount),
        worker.pid.map_or("-".to_owned(), |_| whole(worker.uptime)),
    ]
}

fn state(worker: &WorkerStatus) -> (Weight, String) {
    let since = || worker.retired.map(|since| format!(" {}", whole(since))).unwrap_or_default();
    match worker.state {
        WorkerState::Live if worker.health == WorkerHealth::Silent => {
            (Weight::Bad, "silent".to_owned())
        }
        WorkerState::Live if worker.leaving.is_some() => (Weight::Warn, "leaving".to_owned()),
        WorkerState::Live => (Weight::Good, "live".to_owned()),
        WorkerState::Starting if worker.pid.is_none() => (Weight::Bad, "waiting".to_owned()),
        WorkerState::Starting => (Weight::Warn, "starting".to_owned()),
        WorkerState::Retired if worker.standby => (Weight::Warn, format!("standby{}", since())),
        WorkerState::Retired => (Weight::Warn, format!("drains{}", since())),
        WorkerState::Dying => (Weight::Warn, "ending".to_owned()),
    }
}

fn draw_events(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect, is_wide: bool) {
    let borders = if is_wide { Borders::LEFT } else { Borders::TOP };
    let block = Block::new().borders(borders).border_style(theme.faint()).title(" events, UTC ");
    let none = || vec![Line::from(Span::styled("nothing since top was started", theme.faint()))];
    let lines: Vec<Line<'_>> = model
        .events
        .iter()
        .take(usize::from(area.height))
        .map(|(time, weight, text)| {
            let time = Span::styled(format!("{time} "), theme.faint());
            Line::from(vec![time, Span::styled(text.as_str(), theme.of(*weight))])
        })
        .collect();
    let lines = if lines.is_empty() { none() } else { lines };
    let shown = Paragraph::new(lines).block(block);
    let shown = if is_wide { shown.wrap(Wrap { trim: false }) } else { shown };
    frame.render_widget(shown, area);
}

fn draw_help(frame: &mut Frame<'_>, theme: Theme, area: Rect) {
    const HELP: [&str; 7] = [
        "up down j k   choose a worker        g G   the first, the last",
        "t   retire it, once another worker has its place",
        "r   reload: new workers, all new connections move to them",
        "b   roll back: end a trial, or back to the generation before",
        "+ -   one worker more or less        s   another number of workers",
        "Each asks first. Established connections stay where they are.",
        "? help        q quit: the cluster goes on",
    ];
    let block = Block::new().borders(Borders::TOP).border_style(theme.faint()).title(" help ");
    frame.render_widget(Clear, area);
    frame.render_widget(
        Paragraph::new(HELP.map(Line::from).to_vec()).block(block).wrap(Wrap { trim: false }),
        area,
    );
}

/// What came of what was asked for, and the keys or a question.
fn foot(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let said = match (&model.link, &model.message, model.asked) {
        (Link::Lost(reason), ..) => Span::styled(reason.clone(), theme.of(Weight::Bad)),
        (_, Some((weight, text)), _) => Span::styled(text.clone(), theme.of(*weight)),
        (_, None, Some(_)) => Span::styled("asked ...", theme.of(Weight::Plain)),
        (_, None, None) => Span::raw(""),
    };
    let prompt = match &model.prompt {
        Prompt::Sure { question, .. } => Line::from(vec![
            Span::styled(question.clone(), theme.strong()),
            Span::raw("  "),
            Span::styled(" y ", theme.strong().add_modifier(Modifier::REVERSED)),
            Span::raw(" yes, other keys: no"),
        ]),
        Prompt::Workers { typed } => Line::from(vec![
            Span::styled("How many workers? ", theme.strong()),
            Span::raw(typed.clone()),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
            Span::raw("  Enter, or Esc"),
        ]),
        Prompt::Keys => {
            let keys = [
                ("t", "retire"),
                ("r", "reload"),
                ("b", "rollback"),
                ("+ - s", "scale"),
                ("?", "help"),
                ("q", "quit"),
            ];
            let spans = keys.iter().flat_map(|(key, meaning)| {
                let key =
                    Span::styled(format!(" {key} "), Style::new().add_modifier(Modifier::REVERSED));
                [key, Span::raw(format!(" {meaning}  "))]
            });
            Line::from(spans.collect::<Vec<_>>())
        }
    };
    vec![Line::from(said), prompt]
}

#[cfg(test)]
mod tests;
