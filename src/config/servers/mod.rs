//! Presets of servers that people run as workers. Pure.
//!
//! The setting `server` names one, or leaves it to the command (`auto`), or turns presets off (`none`).
//! What a preset says holds where nobody has given a setting, so that each value can be another one.

mod apply;
mod preset;
mod table;

pub(crate) use apply::ServerInForce;
pub use preset::ServerPreset;

/// Which preset is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Server {
    /// That of the server that the command runs, if it is recognised.
    #[default]
    Auto,
    /// None.
    None,
    /// This one.
    Preset(&'static ServerPreset),
}
