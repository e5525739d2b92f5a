//! `atomica-prep`: arguments, progress, summary, exit codes. One `run` for the binary and for Python.

pub mod check;
mod inspect;
mod merge;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::build::{Build, Existing, Inputs, Stop, Summary};
use crate::dataset::{Compression, Part, FAILURES, REPAIRS};
use crate::discover;
use crate::error::{Error, Result};
use crate::fragments::Fragments;
use crate::interface::{Options, Rule};
use crate::read::{self, Assembly, Ids, Strictness};

/// Everything was done.
pub const DONE: u8 = 0;
/// The work itself failed.
pub const FAILED: u8 = 1;
/// Wrong arguments; nothing was written.
pub const USAGE: u8 = 2;
/// Done, but some inputs failed; the ledger lists them.
pub const SOME_FAILED: u8 = 3;
/// Stopped on request.
pub const INTERRUPTED: u8 = 130;

#[derive(Debug, Parser)]
#[command(
    name = "atomica-prep",
    version,
    about = "Turn structure files into the graphs of their interfaces",
    after_help = "Example:\n  atomica-prep build-graphs complexes.csv --out graphs",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Cut the interfaces that an index lists and write them as Arrow shards
    #[command(
        after_help = "Exit codes: 0 all written, 3 some inputs failed (see failures.jsonl), 2 wrong usage, 130 interrupted.\n\n\
        Example:\n  atomica-prep build-graphs complexes.csv --out graphs --threads 8\n  \
        atomica-prep build-graphs structures/ --discover --out graphs\n  \
        atomica-prep build-graphs --receptor receptor.pdb --ligands docked/*.sdf --out graphs\n\n\
        As an array of 100 jobs under Slurm, in a script started with `sbatch --array=1-100 --cpus-per-task=4`:\n  \
        atomica-prep build-graphs complexes.csv --out parts/$SLURM_ARRAY_TASK_ID \\\n    \
        --shard $SLURM_ARRAY_TASK_ID/100 --threads 4 --resume\n\
        and when all have ended: atomica-prep merge parts/* --out graphs. The result does not depend on the number of \
        jobs.\n\n\
        The index is a CSV with a header: id, path, chain1, chain2, and where they apply lig_code, lig_resnum,\n\
        lig_icode, ligand_path, ligand_index, label, label_*, split, modality. Other columns are kept as metadata.\n\
        For two ligands, lig_code1, lig_resnum1, lig_icode1 say which one in chain1 is the first.\n\
        A pocket without a partner has residues of chain1 (\"45 46A\", of several chains \"A:45 B:102\") and no chain2.\n\n\
        With the Python package a path may be pdb:1abc or af:P12345: --mirror DIR finds it in a local copy of the archive, \
        --fetch downloads what is not there (into --cache DIR), and --min-plddt N leaves residues of predicted models out.\n\n\
        --discover pairs protein chains (a peptide is one of up to 30 residues), strands of DNA or RNA paired with one \
        another and the proteins around them, ligands and ions and the polymers around them, and ligands with one \
        another. Residues are in contact when heavy atoms are closer than 4.5 Å; polymers need five pairs of residues \
        in contact. Components of crystallisation (SO4, GOL, CL, …), and lipids, solvents and salts that only a simulation has so \
        many copies of, are left out. Small molecules that are bonded to one another, as the sugars of an \
        oligosaccharide, are one ligand (lig_members); atoms of polymers that it is attached to are named (covalent)."
    )]
    BuildGraphs(BuildGraphs),
    /// Vocabularies of fragments of small molecules: learn one from molecules of your own
    #[command(
        after_help = "Needs the Python package; `atomica-prep fragments learn --help` there shows all options.\n\n\
        Example:\n  atomica-prep fragments learn molecules.smi --size 300 --out mine.tsv\n  \
        atomica-prep build-graphs complexes.csv --fragments mine.tsv --out graphs"
    )]
    Fragments {
        /// Arguments of that command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Turn data sets that the original has processed into a folder of graphs
    #[command(after_help = "Needs the Python package; `atomica-prep convert --help` there shows all options.\n\n\
        Example:\n  atomica-prep convert PP_test.jsonl.gz --out pp_test")]
    Convert {
        /// Arguments of that command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Check an index and the files that it names, without building anything
    #[command(after_help = "Exit codes: 0 nothing wrong, 3 problems found, 2 wrong usage, 130 interrupted.\n\n\
        Example:\n  atomica-prep check complexes.csv\n  atomica-prep check --example PL > complexes.csv")]
    Check(Check),
    /// Join the parts that build-graphs --shard made, byte for byte as one build would have made them
    #[command(after_help = "Example:\n  atomica-prep merge parts/* --out graphs")]
    Merge(Merge),
    /// Show what a folder of graphs holds, or one complex as a table
    #[command(after_help = "Example:\n  atomica-prep inspect graphs\n  atomica-prep inspect graphs 1igy_A_B")]
    Inspect(Inspect),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RuleName {
    /// Any heavy atom of one block with any of the other; small molecules are kept whole
    AllPairs,
    /// Atom k with atom k only, ligands cut as well: how the released weights were trained
    Reference,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum CompressionName {
    None,
    Zstd,
    Lz4,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StrictnessName {
    /// Mend it, and list what was mended in repairs.jsonl
    Lenient,
    /// Refuse the file, with line and columns, and list it in failures.jsonl
    Strict,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum IdsName {
    /// The author's, as in the literature and in PDB files
    Author,
    /// The archive's label ids (mmCIF, BinaryCIF): a chain id for each molecule, residues counted along the sequence;
    /// ligands and water, which have no place in a sequence, keep the author's number
    Label,
}

impl From<IdsName> for Ids {
    fn from(name: IdsName) -> Self {
        match name {
            IdsName::Author => Self::Author,
            IdsName::Label => Self::Label,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    Local,
    Ray,
}

/// What to build and how, as the command line or Python says it.
#[derive(Debug, Clone, Args)]
pub(crate) struct BuildGraphs {
    /// Index files (CSV); paths in them are relative to the file. With --discover, structure files and folders
    #[arg(required_unless_present = "receptor", value_name = "INPUT")]
    pub(crate) inputs: Vec<PathBuf>,
    /// A structure with which every molecule of --ligands makes a complex, without an index
    #[arg(long, value_name = "FILE", requires = "ligands", conflicts_with_all = ["inputs", "discover"])]
    pub(crate) receptor: Option<PathBuf>,
    /// Molecules docked into --receptor: SDF, MOL2, PDB or PDBQT, one or many in each file. Their titles are the ids
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "receptor")]
    pub(crate) ligands: Vec<PathBuf>,
    /// Folder for the shards, manifest.json, failures.jsonl and repairs.jsonl
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Find the interfaces without an index; what is found is written to discovered.csv, the rest to left_out.csv
    #[arg(long)]
    pub(crate) discover: bool,
    /// Take additives of crystallisation, and lipids, solvents and salts of simulations, for ligands, too
    #[arg(long, requires = "discover")]
    pub(crate) keep_additives: bool,
    /// Blocks belong to the interface when heavy atoms are closer than this, in Å
    #[arg(long, default_value_t = 8.0, value_name = "Å")]
    pub(crate) cutoff: f64,
    /// Nearest neighbours to store for each atom and block
    #[arg(long, default_value_t = 8, value_name = "K")]
    pub(crate) neighbors: usize,
    /// Which atoms decide whether two blocks meet
    #[arg(long, value_enum, default_value = "all-pairs")]
    pub(crate) interface_rule: RuleName,
    /// Vocabulary to cut ligands into fragments with: ccd_300, which comes with the package, or a file made by
    /// `fragments learn`; none: one block per heavy atom. Bonds are those of the ligand's own file, else those of the
    /// component dictionary, else those of the SMILES in the index (lig_smiles); where none of them is known, or makes
    /// sense, a ligand stays one block per atom. Each record says which (ligand_chemistry)
    #[arg(long, default_value = "none", value_name = "NAME|FILE|none")]
    pub(crate) fragments: String,
    /// What to do about text in structure files that is wrong but leaves no doubt
    #[arg(long, value_enum, default_value = "lenient")]
    pub(crate) strictness: StrictnessName,
    /// Whose chain ids and residue numbers the index and the records use
    #[arg(long, value_enum, default_value = "author")]
    pub(crate) ids: IdsName,
    /// Build the biological assembly of this number, as REMARK 350 or the assembly tables of mmCIF and BinaryCIF tell:
    /// further copies of chain A are called. `models`: the models of a PDB file are such copies, as they are
    /// taken to be in files .pdb1. A column `assembly` of the index does the same for its row
    #[arg(long, default_value = "none", value_name = "N|models|none")]
    pub(crate) assembly: Assembly,
    /// Refuse structure and ligand files that unpack to more: bytes, or a number with KiB, MiB, GiB or TiB
    #[arg(long, default_value = "2GiB", value_name = "SIZE", value_parser = size)]
    pub(crate) max_decompressed: u64,
    /// Packing of the shards; unpacked ones are read without copying
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) compression: CompressionName,
    /// Complexes per shard
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) shard_rows: usize,
    /// Threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Build one of N equal parts of the inputs, counted from 1, into a folder of its own; `merge` joins them
    #[arg(long, default_value = "1/1", value_name = "I/N", value_parser = part)]
    pub(crate) shard: Part,
    /// Where the work is done: here, or by the workers of a Ray cluster (`pip install 'atomica-dgl[ray]'`), the one
    /// at RAY_ADDRESS or else one of this machine; inputs and --out must be reachable by all
    #[arg(long, value_enum, default_value = "local")]
    pub(crate) engine: Engine,
    /// Parts that Ray's workers share out; 0 for four per core. The result does not depend on it
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) parts: u64,
    /// Continue an interrupted build
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replace the graphs in --out
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
struct Check {
    /// Index files (CSV)
    #[arg(required_unless_present = "example", value_name = "INDEX")]
    inputs: Vec<PathBuf>,
    /// Print an index to begin from, for interfaces of this kind, and check nothing: PP, PL, Pion, Ppeptide, PRNA, PDNA,
    /// RNAL, CSD, or pocket
    #[arg(long, value_name = "MODALITY", conflicts_with = "inputs")]
    example: Option<String>,
    /// Show every problem, not only the first 20 of each kind
    #[arg(long)]
    all: bool,
    /// Whose chain ids and residue numbers the index uses
    #[arg(long, value_enum, default_value = "author")]
    ids: IdsName,
    /// Threads; 0 for one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

#[derive(Debug, Args)]
struct Merge {
    /// Folders made by build-graphs --shard, all parts of one build in any order
    #[arg(required = true, value_name = "DIR")]
    parts: Vec<PathBuf>,
    /// Folder for the whole
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the graphs in --out
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Args)]
struct Inspect {
    /// Folder made by build-graphs
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Complex to show
    id: Option<String>,
}

/// Runs the command line (arguments without the program's name) and gives the exit code.
pub fn run(arguments: &[String], stop: &Stop) -> u8 {
    run_with(arguments, stop, None)
}

/// The same, with the fragments that `--fragments` asks for.
pub fn run_with(arguments: &[String], stop: &Stop, fragments: Option<&Fragments>) -> u8 {
    let words = std::iter::once("atomica-prep").chain(arguments.iter().map(String::as_str));
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => DONE,
                _ => USAGE,
            };
        }
    };
    let outcome = match cli.command {
        Command::BuildGraphs(arguments) => {
            build_graphs(&arguments, stop, fragments, false).map(|summary| code_of(&summary))
        }
        Command::Fragments { .. } => Err(usage(
            "fragments: learning a vocabulary needs RDKit; use the atomica-prep command of the Python package"
                .to_owned(),
        )),
        Command::Convert { .. } => Err(usage(
            "convert: needs the atomica-prep command of the Python package, which knows the original's data".to_owned(),
        )),
        Command::Check(arguments) => check(&arguments, stop),
        Command::Merge(arguments) => merge(&arguments, stop),
        Command::Inspect(arguments) => inspect::inspect(&arguments.folder, arguments.id.as_deref()).map(|text| {
            print!("{text}");
            DONE
        }),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("atomica-prep: {error}");
        match error.stage() {
            crate::error::Stage::Usage | crate::error::Stage::Index => USAGE,
            _ => FAILED,
        }
    })
}

/// Names and help texts of every command, for tests.
pub fn help_texts() -> Vec<(String, String)> {
    let mut command = Cli::command();
    let mut texts = vec![(String::new(), command.render_long_help().to_string())];
    for sub in command.get_subcommands_mut().filter(|s| s.get_name() != "help") {
        texts.push((sub.get_name().to_owned(), sub.render_long_help().to_string()));
    }
    texts
}

/// Indexes that are files of that name.
fn check_indexes(inputs: &[PathBuf]) -> Result<()> {
    for input in inputs {
        let shown = input.display();
        if input.is_dir() || crate::read::is_structure(input) {
            return Err(usage(format!("{shown}: is no index (CSV); give --discover to find the interfaces in it")));
        }
        if !input.is_file() {
            return Err(usage(format!("{shown}: does not exist; expected an index (CSV)")));
        }
        if input.extension().is_none_or(|e| !e.eq_ignore_ascii_case("csv")) {
            return Err(usage(format!("{shown}: expected an index whose name ends in .csv")));
        }
    }
    Ok(())
}

/// `3/8` → the third of eight parts.
fn part(text: &str) -> std::result::Result<Part, String> {
    let expected = || format!("{text:?}: expected I/N with I from 1 to N, such as 3/8");
    let (number, of) = text.split_once('/').ok_or_else(expected)?;
    match (number.trim().parse(), of.trim().parse()) {
        (Ok(number), Ok(of)) if (1..=of).contains(&number) => Ok(Part { number, of }),
        _ => Err(expected()),
    }
}

/// A number of bytes: `1000000`, `512MiB`, `2 GiB`.
fn size(text: &str) -> std::result::Result<u64, String> {
    const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];
    let text = text.trim();
    let split = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), shift)));
    split
        .and_then(|(number, shift)| number.parse::<u64>().ok()?.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected a number of bytes above 0, or one with KiB, MiB, GiB or TiB, as in 2GiB".to_owned())
}

fn usage(message: String) -> Error {
    Error::Usage { message }
}

impl BuildGraphs {
    /// Checks everything that can be checked before anything is written.
    fn checked(&self, fragments: Option<&Fragments>) -> Result<Build> {
        if !self.cutoff.is_finite() || self.cutoff <= 0.0 || self.cutoff > 100.0 {
            return Err(usage(format!("--cutoff {}: expected a distance above 0 and up to 100 Å", self.cutoff)));
        }
        if self.neighbors > 256 {
            return Err(usage(format!("--neighbors {}: expected 0 to 256", self.neighbors)));
        }
        if self.shard_rows == 0 {
            return Err(usage("--shard-rows 0: expected at least 1".to_owned()));
        }
        if self.engine == Engine::Ray {
            return Err(usage("--engine ray: use the atomica-prep command of the Python package".to_owned()));
        }
        if self.parts > 0 {
            return Err(usage("--parts is for --engine ray; here --shard builds one part".to_owned()));
        }
        let ligands = self.receptor.iter().chain(&self.ligands);
        if let Some(missing) = ligands.clone().find(|file| !file.is_file()) {
            return Err(usage(format!("{}: is no file", missing.display())));
        }
        if self.receptor.is_some() {
            // Nothing else to look at.
        } else if !self.discover {
            check_indexes(&self.inputs)?;
        } else if let Some(missing) = self.inputs.iter().find(|input| !input.exists()) {
            return Err(usage(format!("{}: does not exist", missing.display())));
        }
        if self.out.exists() && !self.out.is_dir() {
            return Err(usage(format!("--out {}: is not a folder", self.out.display())));
        }
        let fragments = match (self.fragments.as_str(), fragments) {
            ("none", _) => None,
            (_, Some(fragments)) => Some(fragments.clone()),
            (name, None) => {
                return Err(usage(format!(
                    "--fragments {name}: cutting ligands needs RDKit; use the atomica-prep command of the Python package"
                )));
            }
        };
        Ok(Build {
            inputs: if let Some(receptor) = &self.receptor {
                Inputs::Poses { receptor: receptor.clone(), ligands: self.ligands.clone() }
            } else if self.discover {
                Inputs::Structures { paths: self.inputs.clone(), keep_additives: self.keep_additives }
            } else {
                Inputs::Indexes(self.inputs.clone())
            },
            out: self.out.clone(),
            interface: Options {
                cutoff: self.cutoff,
                rule: match self.interface_rule {
                    RuleName::AllPairs => Rule::AllPairs,
                    RuleName::Reference => Rule::Reference,
                },
                neighbors: self.neighbors,
                fragments,
            },
            reading: read::Options {
                strictness: match self.strictness {
                    StrictnessName::Lenient => Strictness::Lenient,
                    StrictnessName::Strict => Strictness::Strict,
                },
                max_decompressed: self.max_decompressed,
                ids: self.ids.into(),
                assembly: self.assembly,
            },
            compression: match self.compression {
                CompressionName::None => Compression::None,
                CompressionName::Zstd => Compression::Zstd,
                CompressionName::Lz4 => Compression::Lz4,
            },
            shard_rows: self.shard_rows,
            existing: match (self.resume, self.overwrite) {
                (true, _) => Existing::Resume,
                (false, true) => Existing::Overwrite,
                (false, false) => Existing::Refuse,
            },
            part: self.shard,
        })
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    if threads > 1024 {
        return Err(usage(format!("--threads {threads}: expected 0 to 1024")));
    }
    let made = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    made.map_err(|e| usage(format!("--threads {threads}: {e}")))
}

fn check(arguments: &Check, stop: &Stop) -> Result<u8> {
    if let Some(modality) = &arguments.example {
        let Some(text) = check::example_index(modality) else {
            let known = crate::vocab::MODALITIES.join(", ");
            return Err(usage(format!("--example {modality}: expected one of {known}, pocket")));
        };
        print!("{text}");
        return Ok(DONE);
    }
    check_indexes(&arguments.inputs)?;
    let pool = pool(arguments.threads)?;
    let bar = progress_bar();
    let tick = |rows, total| {
        bar.set_length(total);
        bar.set_position(rows);
    };
    // Lines and bar would run into each other on a terminal.
    let say = |line: &str| bar.suspend(|| println!("{line}"));
    let reading = read::Options { ids: arguments.ids.into(), ..read::Options::default() };
    let outcome = pool.install(|| check::check(&arguments.inputs, arguments.all, reading, stop, &tick, &say));
    bar.finish_and_clear();
    let outcome = outcome?;
    eprintln!("{} rows checked, {} problems", outcome.rows, outcome.problems);
    Ok(match outcome {
        check::Outcome { interrupted: true, .. } => INTERRUPTED,
        check::Outcome { problems: 0, .. } => DONE,
        _ => SOME_FAILED,
    })
}

fn merge(arguments: &Merge, stop: &Stop) -> Result<u8> {
    let bar = progress_bar();
    let tick = |shards, total| {
        bar.set_length(total);
        bar.set_position(shards);
    };
    let merged = merge::merge(&arguments.parts, &arguments.out, arguments.overwrite, stop, &tick);
    bar.finish_and_clear();
    let out = arguments.out.display();
    Ok(match merged? {
        None => {
            eprintln!("interrupted; the same command with --overwrite begins again");
            INTERRUPTED
        }
        Some(counts) => {
            let parts = arguments.parts.len();
            eprintln!("{} complexes of {parts} parts written to {out}, {} failed", counts.complexes, counts.failures);
            if counts.failures > 0 {
                SOME_FAILED
            } else {
                DONE
            }
        }
    })
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} inputs, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Builds, with a bar on the terminal and, unless it is to be quiet, what it came to.
pub(crate) fn build_graphs(
    arguments: &BuildGraphs,
    stop: &Stop,
    fragments: Option<&Fragments>,
    quiet: bool,
) -> Result<Summary> {
    let build = arguments.checked(fragments)?;
    let pool = pool(arguments.threads)?;
    let bar = progress_bar();
    let begin = Instant::now();
    let summary = pool.install(|| {
        build.run(stop, &|rows, total| {
            bar.set_length(total);
            bar.set_position(rows);
        })
    });
    bar.finish_and_clear();
    let summary = summary?;
    if !quiet {
        report(&summary, &build, begin.elapsed());
    }
    Ok(summary)
}

/// The exit code of a build.
pub(crate) fn code_of(summary: &Summary) -> u8 {
    match summary {
        Summary { interrupted: true, .. } => INTERRUPTED,
        summary if summary.counts.failures > 0 => SOME_FAILED,
        _ => DONE,
    }
}

fn report(summary: &Summary, build: &Build, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let rate = summary.complexes_now as f64 / seconds.max(1e-9);
    let out = build.out.display();
    if summary.interrupted {
        eprintln!("interrupted; the same command with --resume continues after the last complete shard in {out}");
        return;
    }
    let counts = &summary.counts;
    if summary.already_complete {
        eprintln!("already complete: {} complexes in {out}, {} failed", counts.complexes, counts.failures);
    } else {
        eprintln!(
            "{} complexes written to {out}, {} failed; {seconds:.1} s, {rate:.0} complexes/s",
            counts.complexes, counts.failures
        );
    }
    if let Some(found) = &summary.discovered {
        eprintln!(
            "  {} interfaces found, listed in {} (edit it and build from it); {} files without one; {} molecules left \
             out, listed in {}; {} files of other kinds",
            found.interfaces,
            build.out.join(discover::FOUND).display(),
            found.without,
            found.left_out,
            discover::LEFT_OUT,
            found.others
        );
    }
    for (code, count) in &summary.failures {
        eprintln!("  {count} {code}");
    }
    if counts.failures > 0 {
        eprintln!("  see {}", build.out.join(FAILURES).display());
    }
    if !summary.repairs.is_empty() {
        eprintln!("mended or noted in reading them (see {}):", build.out.join(REPAIRS).display());
    }
    for repair in &summary.repairs {
        eprintln!("  {} {} in {} inputs", repair.count, repair.kind, repair.inputs);
    }
}
