//! stub
use super::Failed;
pub(super) fn run() -> Result<(), Failed> {
    Err(Failed::new("stub"))
}
pub(super) fn worker() -> Result<(), Failed> {
    ipcluster::lab::greeter::main();
    Ok(())
}
