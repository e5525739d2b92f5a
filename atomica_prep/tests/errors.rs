//! Every error has a case here that meets it, and this file checks that none is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use atomica_prep::build::{Build, Existing, Inputs, Stop};
use atomica_prep::dataset::{read_manifest, Compression, Part};
use atomica_prep::error::Error;
use atomica_prep::files::write_atomically;
use atomica_prep::fragments::{Cut, Cutter, FragmentVocabulary, Fragments, Sketch};
use atomica_prep::index::{Ids, Index, Row};
use atomica_prep::interface::{complex_with_pose, complexes, Options, Pose, Rule, Subject};
use atomica_prep::read::ligand::{LigandFile, Molecule};
use atomica_prep::read::{self, read_bytes, read_file, Strictness};
use atomica_prep::record::{Record, MAX_ATOMS};
use atomica_prep::structure::Source;

const CA: &str = "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00  0.00           C  \n";

fn line(record: &str, name: &str, component: &str, chain: char, number: i32, x: f64, element: &str) -> String {
    format!(
        "{record:<6}    1 {name:<4} {component:>3} {chain}{number:>4}    {x:>8.3}{:>8.3}{:>8.3}  1.00  0.00          {element:>2}\n",
        0.0, 0.0
    )
}

fn options() -> Options {
    Options { cutoff: 8.0, rule: Rule::AllPairs, neighbors: 4, fragments: None }
}

fn subject(text: &str) -> Subject {
    let structure = read_bytes(text.as_bytes(), "pdb", "x.pdb", read::Options::default()).unwrap();
    Subject::new(Source { structure, sha256: String::new() })
}

/// The row of an index with one row.
fn row(columns: &str, values: &str) -> Row {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.csv");
    fs::write(&path, format!("{columns}\n{values}\n")).unwrap();
    let index = Index::open(&path).unwrap();
    let mut ids = Ids::default();
    let first = index.rows(&mut ids).next().unwrap();
    first.unwrap()
}

fn made(text: &str, values: &str) -> Result<Record, Error> {
    let row = row("id,path,chain1,chain2,lig_code", values);
    complexes(&subject(text), &row, &options()).remove(0).1
}

fn pocket(text: &str, residues: &str) -> Result<Record, Error> {
    let row = row("id,path,chain1,residues", &format!("x,x.pdb,A_B,{residues}"));
    complexes(&subject(text), &row, &options()).remove(0).1
}

fn bad_row(values: &str) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.csv");
    fs::write(&path, format!("id,path,chain1,chain2,ligand_path\nx,a.pdb,A,B,\n{values}\n")).unwrap();
    let index = Index::open(&path).unwrap();
    let mut ids = Ids::default();
    let last = index.rows(&mut ids).last().unwrap();
    last.unwrap_err().error()
}

fn read(name: &str, bytes: &[u8]) -> Error {
    read_with(name, bytes, read::Options::default())
}

fn read_with(name: &str, bytes: &[u8], options: read::Options) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read_file(&path, name, options).unwrap_err()
}

fn build(folder: &Path, existing: Existing) -> Result<(), Error> {
    fs::write(folder.join("index.csv"), "id,path,chain1,chain2\n").unwrap();
    let build = Build {
        inputs: Inputs::Indexes(vec![folder.join("index.csv")]),
        out: folder.join("out"),
        reading: read::Options::default(),
        interface: options(),
        compression: Compression::None,
        shard_rows: 8,
        existing,
        part: Part::WHOLE,
    };
    build.run(&Stop::default(), &|_, _| {}).map(|_| ())
}

fn occupied(existing: Existing) -> Error {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("out/notes.txt"), "mine").unwrap();
    build(folder.path(), existing).unwrap_err()
}

/// Has no use for what the index says of any molecule.
struct Refusing;

impl Cutter for Refusing {
    fn cut(&self, sketch: &Sketch) -> Result<Cut, String> {
        Err(format!("lig_smiles {:?} is no SMILES", sketch.smiles.as_deref().unwrap_or_default()))
    }
}

fn uncut(text: &str, values: &str) -> Error {
    let row = row("id,path,chain1,chain2,lig_code,lig_smiles", values);
    let fragments = Fragments::new(FragmentVocabulary::default(), Arc::new(Refusing));
    let options = Options { fragments: Some(fragments), ..options() };
    complexes(&subject(text), &row, &options).remove(0).1.unwrap_err()
}

/// What becomes of a molecule of a file with one, a carbon at the origin.
fn molecule(index: usize) -> Result<Molecule, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.sdf");
    fs::write(&path, "t\n\n\n  1  0  0  0  0  0            999 V2000\n    0.0       0.0       0.0    C\nM  END\n")
        .unwrap();
    LigandFile::open(&path, "l.sdf", read::Options::default()).unwrap().molecule(index)
}

/// What becomes of that molecule as the ligand of a structure.
fn posed(text: &str) -> Error {
    let row = row("id,path,chain1,chain2,ligand_path", "x,x.pdb,A,,l.sdf");
    let pose = Pose { molecule: &molecule(0).unwrap(), sha256: "" };
    complex_with_pose(&subject(text), &row, pose, &options()).unwrap_err()
}

/// One error of every kind, made the way a user would make it.
fn cases() -> Vec<(&'static str, Error, &'static str)> {
    let near = line("ATOM", " CA", "GLY", 'A', 1, 0.0, "C");
    let far = line("ATOM", " CA", "GLY", 'B', 1, 8.0, "C");
    let zinc = line("HETATM", "ZN", "ZN", 'B', 9, 3.0, "ZN");
    let pair = line("HETATM", " C1", "LIG", 'B', 9, 3.0, "C") + &line("HETATM", " C2", "LIG", 'B', 9, 4.4, "C");
    let proton = line("HETATM", " H", "HYD", 'B', 9, 3.0, "H");
    let folder = tempfile::tempdir().unwrap();
    let too_large = {
        // Two residues, the second with copies of its atom beyond the limit.
        let text = format!("{near}{}", far.replace("   8.000", "   3.000"));
        let mut structure = read_bytes(text.as_bytes(), "pdb", "x.pdb", read::Options::default()).unwrap();
        let (p, e, n) = (structure.positions[0], structure.elements[0], structure.atom_names[0]);
        structure.positions.extend(std::iter::repeat_n(p, MAX_ATOMS));
        structure.elements.extend(std::iter::repeat_n(e, MAX_ATOMS));
        structure.atom_names.extend(std::iter::repeat_n(n, MAX_ATOMS));
        structure.residues[1].end = structure.positions.len();
        let subject = Subject::new(Source { structure, sha256: String::new() });
        complexes(&subject, &row("id,path,chain1,chain2", "x,x.pdb,A,B"), &options()).remove(0).1.unwrap_err()
    };
    vec![
        // Met through the command line in `builds.rs`.
        ("Usage", Error::Usage { message: "--cutoff 0: expected a distance above 0".to_owned() }, "--cutoff"),
        ("OutputExists", occupied(Existing::Refuse), "--overwrite"),
        ("ResumeMismatch", occupied(Existing::Resume), "no progress.json"),
        ("IndexUnreadable", Index::open(&folder.path().join("none.csv")).unwrap_err(), "none.csv"),
        (
            "IndexColumns",
            {
                fs::write(folder.path().join("i.csv"), "a,b\n").unwrap();
                Index::open(&folder.path().join("i.csv")).unwrap_err()
            },
            "lacks id (or pdb_id)",
        ),
        ("IndexRow", bad_row("y,a.pdb,A,,"), "line 3: chain2 is empty"),
        ("DuplicateId", bad_row("x,a.pdb,A,B,"), "taken by line 2"),
        (
            "Io",
            read_file(Path::new("nowhere/x.pdb"), "nowhere/x.pdb", read::Options::default()).unwrap_err(),
            "nowhere/x.pdb",
        ),
        ("Decompress", read("x.pdb.gz", b"\x1f\x8b no gzip at all, but long enough"), "decompressed"),
        (
            "Oversized",
            {
                // A megabyte of nothing takes a kilobyte.
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                std::io::Write::write_all(&mut packed, &[b' '; 1 << 20]).unwrap();
                let limit = read::Options { max_decompressed: (1 << 20) - 1, ..read::Options::default() };
                read_with("x.pdb.gz", &packed.finish().unwrap(), limit)
            },
            "unpacks to more than the limit of 1048575 bytes; if the file can be trusted, give a larger --max-decompressed",
        ),
        ("UnknownFormat", read("x.doc", b"text"), "expected .pdb"),
        ("EmptyFile", read("x.pdb", b""), "is empty"),
        ("NoAtoms", read("x.pdb", b"HEADER\n"), "ATOM or HETATM"),
        (
            "BadRecords",
            read("x.pdb", CA.replace("   0.000   0.000   0.000", "   0.000   ?.000   0.000").as_bytes()),
            "line 1, columns 39-46",
        ),
        (
            "NeedsRepair",
            read_with("x.pdb", CA.replace(" C  \n", "\n").as_bytes(), read::Options { strictness: Strictness::Strict, ..read::Options::default() }),
            "line 1, columns 77-78: no element; C by the atom name",
        ),
        // Met in the reader's own tests, where an account is made that does not add up.
        ("Unaccounted", Error::Unaccounted { path: "x.pdb".to_owned(), records: 2, explained: 1 }, "2 coordinate records"),
        ("Encoding", read("x.pdb", b"\xff\xfeA\0T\0O\0M\0"), "is UTF-16 text; save it as UTF-8"),
        ("NoLabelIds", read_with("x.pdb", CA.as_bytes(), read::Options { ids: read::Ids::Label, ..read::Options::default() }), "the author's ids only; give --ids author"),
        ("MissingColumns", read("x.cif", b"data_x\nloop_\n_atom_site.id\n1\n"), "Cartn_x"),
        ("Syntax", read("x.cif", b"data_x\n_a.b 'c\n"), "line 2"),
        ("BinaryCif", read("x.bcif", b"\x81\xaadataBlocks\x01"), "dataBlocks is no list"),
        ("MissingAssembly", read_with("x.pdb", CA.as_bytes(), read::Options { assembly: read::Assembly::Number(2), ..read::Options::default() }), "no biological assembly 2; the file describes: none"),
        ("MissingMolecule", molecule(1).unwrap_err(), "no molecule 1; the file has 1"),
        ("MissingChain", made(&near, "x,x.pdb,A,B,").unwrap_err(), "no chain \"B\"; the file has: A"),
        ("EmptyPartner", made(&format!("{near}{zinc}"), "x,x.pdb,A,B,").unwrap_err(), "lig_code"),
        ("MissingLigand", made(&format!("{near}{zinc}"), "x,x.pdb,A,B,CA").unwrap_err(), "it has: ZN 9"),
        ("MissingResidues", pocket(&format!("{near}{zinc}"), "A:1 A:7A B:9").unwrap_err(), "acid or nucleotide A:7A B:9; chains \"A_B\" hold: A:1"),
        ("HydrogenLigand", made(&format!("{near}{proton}"), "x,x.pdb,A,B,HYD").unwrap_err(), "heavier than hydrogen"),
        ("ReceptorLigand", posed(&near), "molecule 0 is the receptor"),
        ("LigandChemistry", uncut(&format!("{near}{pair}"), "x,x.pdb,A,B,LIG,C#?"), "\"C#?\" is no SMILES"),
        // Strict: at exactly the cutoff there is no contact.
        ("NoInterface", made(&format!("{near}{far}"), "x,x.pdb,A,B,").unwrap_err(), "closer than 8 Å"),
        ("TooLarge", too_large, "more than the 4194304"),
        ("Write", write_atomically(&folder.path().join("no/such/file"), b"").unwrap_err(), "cannot be written"),
        ("NotADataset", read_manifest(folder.path()).unwrap_err(), "manifest.json"),
    ]
}

#[test]
fn every_error_is_met() {
    let cases = cases();
    for (code, error, text) in &cases {
        assert_eq!(error.code(), *code);
        assert!(error.to_string().contains(text), "{code}: {error}");
        match error.file() {
            Some(file) => assert!(error.to_string().contains(file), "{code} does not name its file: {error}"),
            None => assert_eq!(*code, "Usage"),
        }
    }
    let met: BTreeSet<&str> = cases.iter().map(|(code, ..)| *code).collect();
    let all: BTreeSet<&str> = Error::CODES.iter().copied().collect();
    assert_eq!(met, all, "an error without a case");
}

#[test]
fn only_the_first_problems_are_spelled_out() {
    let bad = CA.replace("   0.000   0.000   0.000", "   0.000   ?.000   0.000");
    let text = read("x.pdb", bad.repeat(25).as_bytes()).to_string();
    assert!(text.contains("line 10,") && !text.contains("line 11,") && text.ends_with("and 15 more"), "{text}");
}
