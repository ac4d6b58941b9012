//! The built-in worker as a program of its own.

fn main() -> std::process::ExitCode {
    ipcluster::lab::greeter::main()
}
