//! What was measured, and how it is printed.

use super::stage::Way;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Processor time for a short connection, in microseconds; the worker closes, then the client.
    Connection,
    /// The same, and the client answers that close by a reset.
    ResetConnection,
    /// Short connections a second.
    Rate,
    /// GB a second from the clients to the workers.
    Up,
    /// Processor time for a GiB of that, in seconds.
    GibibyteUp,
    /// GB a second from the workers to the clients.
    Down,
    /// Processor time for a GiB of that, in seconds.
    GibibyteDown,
    /// Entries of connection tracking for each short connection, after them.
    Tracked,
}

impl Figure {
    const ALL: [Self; 8] = [
        Self::Connection,
        Self::ResetConnection,
        Self::Rate,
        Self::Up,
        Self::GibibyteUp,
        Self::Down,
        Self::GibibyteDown,
        Self::Tracked,
    ];

    /// Its name, and with how many places behind the point it is printed.
    fn name(self) -> (&'static str, usize) {
        match self {
            Self::Connection => ("CPU per connection, us", 1),
            Self::ResetConnection => ("the same, clients reset, us", 1),
            Self::Rate => ("most connections/s", 0),
            Self::Up => ("to the workers, GB/s", 2),
            Self::GibibyteUp => ("CPU per GiB of it, s", 3),
            Self::Down => ("to the clients, GB/s", 2),
            Self::GibibyteDown => ("CPU per GiB of it, s", 3),
            Self::Tracked => ("conntrack entries per connection", 2),
        }
    }

    /// What the ways but the first are to reach, as they compare with it.
    fn aims(self) -> [&'static str; 2] {
        match self {
            Self::Connection | Self::ResetConnection => ["<= 1.15", "<= 1.05"],
            Self::Up | Self::Down => ["", ">= 0.95"],
            Self::Rate | Self::GibibyteUp | Self::GibibyteDown => ["", ""],
            Self::Tracked => ["", "0"],
        }
    }
}

/// One value that was measured.
struct Sample {
    is_steered: bool,
    figure: Figure,
    way: Way,
    value: f64,
}

/// All that was measured.
#[derive(Default)]
pub(crate) struct Samples(Vec<Sample>);

impl Samples {
    pub(crate) fn add(&mut self, is_steered: bool, figure: Figure, way: Way, value: f64) {
        self.0.push(Sample { is_steered, figure, way, value });
    }

    /// In the order of the passes.
    fn of(&self, is_steered: bool, figure: Figure, way: Way) -> Vec<f64> {
        let wanted = (is_steered, figure, way);
        let its = self.0.iter().filter(|it| (it.is_steered, it.figure, it.way) == wanted);
        its.map(|it| it.value).collect()
    }

    /// Prints medians, and those of the ratios within each pass with their quartiles.
    pub(crate) fn print(&self, is_steered: bool) {
        println!(
            "\n{:<33} {:>11} {:>9} {:>18} {:>8} {:>9} {:>18} {:>8}",
            format!("receive steering {}", if is_steered { "on" } else { "off" }),
            "no balancer",
            "redirect",
            "ratio",
            "aim",
            "tproxy",
            "ratio",
            "aim"
        );
        let [first, others @ ..] = Way::ALL;
        for figure in Figure::ALL {
            let (name, places) = figure.name();
            let base = self.of(is_steered, figure, first);
            print!("{name:<33} {:>11.places$}", quartile(base.clone(), 2));
            for (way, aim) in others.into_iter().zip(figure.aims()) {
                let its = self.of(is_steered, figure, way);
                let ratios = its.iter().zip(&base).map(|(it, base)| it / base);
                let ratio = ratio(ratios.collect());
                print!(" {:>9.places$} {ratio:>18} {aim:>8}", quartile(its, 2));
            }
            println!();
        }
    }
}

impl Samples {
    /// Prints a row for each way: what a short connection costs, and how that compares with the first.
    pub(crate) fn print_parts(&self, is_steered: bool, ways: &[Way]) {
        let head = format!("receive steering {}", if is_steered { "on" } else { "off" });
        let figures = [Figure::Connection, Figure::ResetConnection];
        println!(
            "\n{head:<33} {:>9} {:>18} {:>9} {:>18}",
            "CPU, us", "ratio", "reset, us", "ratio"
        );
        for way in ways {
            print!("{:<33}", way.name());
            for figure in figures {
                let its = self.of(is_steered, figure, *way);
                let base = self.of(is_steered, figure, ways[0]);
                let ratios = its.iter().zip(&base).map(|(it, base)| it / base);
                print!(" {:>9.1} {:>18}", quartile(its.clone(), 2), ratio(ratios.collect()));
            }
            println!();
        }
    }
}

fn ratio(ratios: Vec<f64>) -> String {
    if ratios.iter().any(|it| !it.is_finite()) {
        return "-".to_owned();
    }
    let [low, median, high] = [1, 2, 3].map(|quarters| quartile(ratios.clone(), quarters));
    format!("{median:.3} {low:.2}-{high:.2}")
}

/// The value below which so many quarters of all lie; 2 gives the median.
pub(crate) fn quartile(mut values: Vec<f64>, quarters: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * quarters / 4]
}
