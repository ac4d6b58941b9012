//! Lines of JSON, as they go over a control socket: how bytes become lines, what is wrong with one, and
//! what workers and their master say to each other. Pure. Below both `control` and `worker`, so that
//! a worker needs nothing of a master.

mod decoder;
mod error;
mod text;
mod worker;
mod worker_data;

pub(crate) use decoder::{LineDecoder, MAX_LINE};
pub use error::MessageError;
pub(crate) use error::VERSION;
pub(crate) use error::{not_json, wrong};
pub(crate) use text::{cut, kind, shorten};
pub use worker::{FromWorker, ToWorker, WorkerOrder};
pub(crate) use worker::{WorkerInfo, worker_ports};
pub(crate) use worker::{id_of, is_worker_line};
pub use worker_data::WorkerData;
