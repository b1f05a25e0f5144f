//! The command line.

fn main() -> std::process::ExitCode {
    netft_userspace::cli::main()
}
