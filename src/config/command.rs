/// What a worker runs.
///
/// ```
/// use ipcluster::config::WorkerCommand;
///
/// let command = WorkerCommand::new("node").arg("server.js");
/// assert_eq!(command.arguments(), ["server.js"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

impl WorkerCommand {
    /// A program without arguments: a path, or a name that is looked for in `PATH`.
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), arguments: Vec::new() }
    }

    /// The same program with one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The same program with more arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Its arguments, without the program's name.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }
}
