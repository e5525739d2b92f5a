//! The command line without Python.

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let stop = atomica_prep::build::Stop::default();
    let seen = stop.clone();
    // Without a handler an interrupt just ends the process; a build is resumable either way.
    let _ = ctrlc::set_handler(move || seen.request());
    std::process::ExitCode::from(atomica_prep::cli::run(&arguments, &stop))
}
