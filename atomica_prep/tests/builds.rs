//! Whole builds: exit codes, ledger, resuming, determinism.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

use std::fs;
use std::path::Path;

use atomica_prep::build::Stop;
use atomica_prep::cli::{self, check};

fn atom(name: &str, component: &str, chain: char, number: usize, xyz: [f64; 3]) -> String {
    let element = name.trim().get(..1).unwrap_or("C");
    format!(
        "ATOM      1 {name:<4} {component:>3} {chain}{number:>4}    {:>8.3}{:>8.3}{:>8.3}  1.00  0.00           {element}\n",
        xyz[0], xyz[1], xyz[2]
    )
}

/// Two strands side by side.
fn structure(shift: f64) -> String {
    strands(shift, 5.0)
}

fn strands(shift: f64, apart: f64) -> String {
    let mut text = String::new();
    for (chain, y) in [('A', 0.0), ('B', apart)] {
        for i in 0..6 {
            let x = i as f64 * 3.5 + shift;
            for (name, dx) in [(" N", 0.0), (" CA", 1.4), (" C", 2.4), (" O", 2.9)] {
                text += &atom(name, "ALA", chain, i + 1, [x + dx, y, dx * 0.5]);
            }
        }
        text += "TER\n";
    }
    text + "END\n"
}

/// A folder with `good` structures and an index of them and of `extra` rows.
fn folder(good: usize, extra: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut index = "id,path,chain1,chain2,label,split,source\n".to_owned();
    for i in 0..good {
        fs::write(folder.path().join(format!("{i}.pdb")), structure(i as f64 * 0.1)).unwrap();
        index += &format!("c{i},{i}.pdb,A,B,{i}.5,train,made\n");
    }
    fs::write(folder.path().join("index.csv"), index + extra).unwrap();
    folder
}

fn run(folder: &Path, out: &str, more: &[&str]) -> u8 {
    run_until(folder, out, more, &Stop::default())
}

fn run_until(folder: &Path, out: &str, more: &[&str], stop: &Stop) -> u8 {
    let (index, out) = (folder.join("index.csv"), folder.join(out));
    let mut arguments = vec!["build-graphs", index.to_str().unwrap(), "--out", out.to_str().unwrap()];
    arguments.extend(more);
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    cli::run(&arguments, stop)
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn manifest(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn bad_inputs_are_listed_and_the_rest_is_written() {
    let dir = folder(100, "bad,bad.pdb,A,B,,,\nempty,empty.pdb,A,B,,,\nchain,3.pdb,A,Z,,,\n");
    let corrupt = structure(0.0).replacen("   1.400", "   1.x00", 1);
    fs::write(dir.path().join("bad.pdb"), corrupt).unwrap();
    fs::write(dir.path().join("empty.pdb"), "").unwrap();
    assert_eq!(run(dir.path(), "out", &[]), cli::SOME_FAILED);
    let out = dir.path().join("out");
    let counts = &manifest(&out)["counts"];
    assert_eq!(
        (counts["inputs"].as_u64(), counts["complexes"].as_u64(), counts["failures"].as_u64()),
        (Some(103), Some(100), Some(3))
    );
    let ledger: Vec<serde_json::Value> = fs::read_to_string(out.join("failures.jsonl"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let told: Vec<_> = ledger
        .iter()
        .map(|f| {
            (
                f["row"].as_u64().unwrap(),
                f["id"].as_str().unwrap(),
                f["code"].as_str().unwrap(),
                f["line"].as_u64(),
                f["column"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (102, "bad", "BadRecords", Some(2), Some(31)),
            (103, "empty", "EmptyFile", None, None),
            (104, "chain", "MissingChain", None, None)
        ]
    );
}

#[test]
fn repairs_are_listed_and_refused_on_request() {
    let dir = folder(3, "");
    let clean = structure(0.0);
    // Without elements from column 77 on, and one line without its occupancy.
    let bare: String = clean.lines().map(|l| format!("{}\n", l.get(..76).unwrap_or(l).trim_end())).collect();
    fs::write(dir.path().join("1.pdb"), bare.replacen("  1.00  0.00", "", 1)).unwrap();
    assert_eq!(run(dir.path(), "out", &[]), cli::DONE);
    let lines: Vec<serde_json::Value> = fs::read_to_string(dir.path().join("out/repairs.jsonl"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|l| (l["row"].as_u64(), l["id"].as_str(), l["kind"].as_str(), l["count"].as_u64(), l["line"].as_u64()))
        .collect();
    assert_eq!(
        told,
        [
            (Some(3), Some("c1"), Some("element-guessed"), Some(48), Some(1)),
            (Some(3), Some("c1"), Some("occupancy-assumed"), Some(1), Some(1)),
        ]
    );
    assert_eq!(run(dir.path(), "strict", &["--strictness", "strict"]), cli::SOME_FAILED);
    assert_eq!(fs::read(dir.path().join("strict/repairs.jsonl")).unwrap(), b"");
    let ledger = fs::read_to_string(dir.path().join("strict/failures.jsonl")).unwrap();
    let failure: serde_json::Value = serde_json::from_str(&ledger).unwrap();
    assert_eq!((failure["id"].as_str(), failure["code"].as_str()), (Some("c1"), Some("NeedsRepair")));
    assert_eq!((failure["line"].as_u64(), failure["column"].as_u64()), (Some(1), Some(55)));
    assert_eq!(manifest(&dir.path().join("strict"))["options"]["strictness"], "strict");
}

#[test]
fn files_that_unpack_too_far_are_refused() {
    let dir = folder(1, "bomb,bomb.pdb.gz,A,B,,,\nfit,fit.pdb.zst,A,B,,,\n");
    let text = structure(0.0);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, text.repeat(100).as_bytes()).unwrap();
    fs::write(dir.path().join("bomb.pdb.gz"), packed.finish().unwrap()).unwrap();
    fs::write(dir.path().join("fit.pdb.zst"), zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
    // A file that is not packed is as large as it is.
    let limit = text.len().to_string();
    assert_eq!(run(dir.path(), "out", &["--max-decompressed", &limit]), cli::SOME_FAILED);
    let ledger = fs::read_to_string(dir.path().join("out/failures.jsonl")).unwrap();
    assert_eq!(ledger.lines().count(), 1, "{ledger}");
    assert!(ledger.contains("Oversized") && ledger.contains("bomb.pdb.gz: unpacks to more than"), "{ledger}");
    assert_eq!(run(dir.path(), "all", &["--max-decompressed", "1 MiB"]), cli::DONE);
}

#[test]
fn wrong_usage_writes_nothing() {
    let dir = folder(1, "");
    for more in [
        &["--cutoff", "0"][..],
        &["--cutoff", "nan"],
        &["--neighbors", "999"],
        &["--shard-rows", "0"],
        &["--max-decompressed", "2GB"],
        &["--max-decompressed", "0"],
        &["--bogus"],
    ] {
        assert_eq!(run(dir.path(), "out", more), cli::USAGE, "{more:?}");
    }
    // Without RDKit there is nobody to cut.
    assert_eq!(run(dir.path(), "out", &["--fragments", "ccd_300"]), cli::USAGE);
    assert!(!dir.path().join("out").exists());
    fs::remove_file(dir.path().join("index.csv")).unwrap();
    assert_eq!(run(dir.path(), "out", &[]), cli::USAGE);
    fs::write(dir.path().join("index.csv"), "id,path\n").unwrap();
    assert_eq!(run(dir.path(), "out", &[]), cli::USAGE);
    assert!(!dir.path().join("out").exists());
}

#[test]
fn an_existing_folder_is_replaced_only_on_request() {
    let dir = folder(2, "");
    assert_eq!(run(dir.path(), "out", &[]), cli::DONE);
    let before = files(&dir.path().join("out"));
    fs::write(dir.path().join("out/notes.txt"), "mine").unwrap();
    assert_eq!(run(dir.path(), "out", &[]), cli::USAGE);
    assert_eq!(run(dir.path(), "out", &["--overwrite"]), cli::DONE);
    assert_eq!(fs::read_to_string(dir.path().join("out/notes.txt")).unwrap(), "mine");
    fs::remove_file(dir.path().join("out/notes.txt")).unwrap();
    assert_eq!(files(&dir.path().join("out")), before);
}

#[test]
fn resuming_a_complete_build_does_nothing() {
    let dir = folder(2, "");
    assert_eq!(run(dir.path(), "out", &[]), cli::DONE);
    let before = files(&dir.path().join("out"));
    assert_eq!(run(dir.path(), "out", &["--resume"]), cli::DONE);
    // As if killed just before the last file was removed.
    fs::write(dir.path().join("out/progress.json"), "{}").unwrap();
    assert_eq!(run(dir.path(), "out", &["--resume"]), cli::DONE);
    assert_eq!(files(&dir.path().join("out")), before);
    assert_eq!(run(dir.path(), "out", &["--resume", "--cutoff", "7"]), cli::USAGE);
    assert_eq!(run(dir.path(), "out", &["--resume", "--shard", "1/2"]), cli::USAGE);
    assert_eq!(files(&dir.path().join("out")), before);
}

#[test]
fn a_build_killed_at_its_very_beginning_can_be_resumed() {
    let dir = folder(2, "");
    assert_eq!(run(dir.path(), "whole", &[]), cli::DONE);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("failures.jsonl"), "").unwrap();
    fs::write(out.join("progress.json.tmp"), "{").unwrap();
    assert_eq!(run(dir.path(), "out", &["--resume"]), cli::DONE);
    assert_eq!(files(&out), files(&dir.path().join("whole")));
}

#[test]
fn a_resumed_build_is_byte_identical() {
    let dir = folder(150, "late,none.pdb,A,B,,,\n");
    for i in (0..150).step_by(4) {
        let bare: String =
            structure(f64::from(i) * 0.1).lines().map(|l| format!("{}\n", l.get(..76).unwrap_or(l))).collect();
        fs::write(dir.path().join(format!("{i}.pdb")), bare).unwrap();
    }
    let options = ["--shard-rows", "7", "--threads", "2"];
    assert_eq!(run(dir.path(), "whole", &options), cli::SOME_FAILED);
    let whole = files(&dir.path().join("whole"));
    assert_eq!(manifest(&dir.path().join("whole"))["shards"].as_array().unwrap().len(), 22);
    // A build that was told to stop before it began leaves a folder that can be resumed, and so does one whose
    // later shards were lost before it finished.
    let stop = Stop::default();
    stop.request();
    assert_eq!(run_until(dir.path(), "out", &options, &stop), cli::INTERRUPTED);
    let out = dir.path().join("out");
    assert!(!out.join("manifest.json").exists());
    assert_eq!(run(dir.path(), "out", &["--shard-rows", "8", "--resume"]), cli::USAGE);
    assert_eq!(run(dir.path(), "out", &[&options[..], &["--resume"]].concat()), cli::SOME_FAILED);
    assert_eq!(files(&out), whole);
    // One thread gives the same bytes as two.
    assert_eq!(run(dir.path(), "single", &["--shard-rows", "7", "--threads", "1"]), cli::SOME_FAILED);
    assert_eq!(files(&dir.path().join("single")), whole);
}

#[test]
fn a_build_stopped_in_the_middle_is_byte_identical_after_resuming() {
    let dir = folder(400, "");
    let options = ["--shard-rows", "10", "--threads", "1"];
    assert_eq!(run(dir.path(), "whole", &options), cli::DONE);
    let whole = files(&dir.path().join("whole"));
    let stop = Stop::default();
    let watcher = {
        let (stop, progress) = (stop.clone(), dir.path().join("out/shard-00005.arrow"));
        std::thread::spawn(move || {
            while !progress.exists() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            stop.request();
        })
    };
    let code = run_until(dir.path(), "out", &options, &stop);
    watcher.join().unwrap();
    if code == cli::INTERRUPTED {
        assert!(!dir.path().join("out/manifest.json").exists());
        assert_eq!(run(dir.path(), "out", &[&options[..], &["--resume"]].concat()), cli::DONE);
    }
    assert_eq!(files(&dir.path().join("out")), whole);
}

/// Two strands, a zinc and a sulfate beside the first, two molecules that meet, a chloride far away.
fn with_molecules() -> String {
    let mut text = strands(0.0, 4.0).replace("END\n", "");
    for (name, component, number, xyz) in [
        ("ZN", "ZN", 301, [3.5, -2.5, 0.0]),
        (" S", "SO4", 302, [7.0, -3.0, 0.0]),
        (" C1", "LGA", 401, [10.5, -3.0, 0.0]),
        (" C2", "LGA", 401, [10.5, -4.5, 0.0]),
        (" C1", "LGB", 402, [10.5, -8.0, 0.0]),
        (" C2", "LGB", 402, [10.5, -9.5, 0.0]),
        ("CL", "CL", 501, [90.0, 0.0, 0.0]),
        ("NA", "NA", 502, [99.0, 0.0, 0.0]),
    ] {
        text += &atom(name, component, 'A', number, xyz).replace("ATOM  ", "HETATM");
    }
    text + "END\n"
}

fn command(arguments: &[&str]) -> u8 {
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    cli::run(&arguments, &Stop::default())
}

#[test]
fn interfaces_are_found_without_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("inner")).unwrap();
    fs::write(data.join("inner/1abc.pdb"), with_molecules()).unwrap();
    fs::write(data.join("bad.pdb"), "HEADER\n").unwrap();
    fs::write(data.join("lone.pdb"), atom(" CA", "ALA", 'A', 1, [0.0; 3])).unwrap();
    fs::write(data.join("notes.txt"), "mine").unwrap();
    let (data, out) = (data.to_str().unwrap(), dir.path().join("out"));
    let build = |out: &Path, more: &[&str]| {
        command(&[&["build-graphs", data, "--discover", "--out", out.to_str().unwrap()], more].concat())
    };
    assert_eq!(build(&out, &[]), cli::SOME_FAILED);
    let text = fs::read_to_string(out.join("discovered.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split(',').collect()).collect();
    let told: Vec<[&str; 4]> = rows.iter().map(|r| [r[0], r[2], r[3], r[10]]).collect();
    assert_eq!(
        told,
        [
            ["1abc_A_B", "A", "B", "Ppeptide"],
            ["1abc_ZN_A_301", "A", "A", "Pion"],
            ["1abc_LGA_A_401", "A", "A", "PL"],
            ["1abc_LGA_A_401_LGB_A_402", "A", "A", "CSD"],
        ]
    );
    let left_out = fs::read_to_string(out.join("left_out.csv")).unwrap();
    let left_out: Vec<_> = left_out.lines().skip(1).map(|l| l.splitn(3, ',').last().unwrap()).collect();
    assert_eq!(
        left_out,
        [
            "SO4,302,additive of crystallisation,additive",
            "CL,501,additive of crystallisation,additive",
            "LGB,402,no polymer in contact,no-contact",
            "NA,502,no polymer in contact,no-contact",
            ",,no interface in this file,no-interface",
        ]
    );
    let ledger: serde_json::Value = serde_json::from_slice(&fs::read(out.join("failures.jsonl")).unwrap()).unwrap();
    assert_eq!(
        (ledger["id"].as_str(), ledger["row"].as_u64(), ledger["code"].as_str()),
        (Some("bad"), None, Some("NoAtoms"))
    );

    // What was found is an index that gives the same graphs.
    let again = dir.path().join("again");
    let index = out.join("discovered.csv");
    assert_eq!(command(&["build-graphs", index.to_str().unwrap(), "--out", again.to_str().unwrap()]), cli::DONE);
    let shard = |folder: &Path| fs::read(folder.join("shard-00000.arrow")).unwrap();
    assert!(shard(&out) == shard(&again));

    let all = dir.path().join("all");
    assert_eq!(build(&all, &["--keep-additives"]), cli::SOME_FAILED);
    assert!(fs::read_to_string(all.join("discovered.csv")).unwrap().contains("1abc_SO4_A_302"));

    // Stopped after a shard of two, in the middle of a file.
    let parts = dir.path().join("parts");
    assert_eq!(build(&parts, &["--shard-rows", "2"]), cli::SOME_FAILED);
    let whole = files(&parts);
    let half = dir.path().join("half");
    let stop = Stop::default();
    stop.request();
    let arguments: Vec<String> =
        ["build-graphs", data, "--discover", "--out", half.to_str().unwrap(), "--shard-rows", "2"]
            .map(str::to_owned)
            .into();
    assert_eq!(cli::run(&arguments, &stop), cli::INTERRUPTED);
    assert_eq!(build(&half, &["--shard-rows", "2", "--resume"]), cli::SOME_FAILED);
    assert_eq!(files(&half), whole);
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let dir = folder(1, "");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let out = path("out");
    for arguments in [
        &["build-graphs", &path("0.pdb"), "--out", &out][..],
        &["build-graphs", &path(""), "--out", &out],
        &["build-graphs", &path("index.csv"), "--discover", "--out", &out],
        &["build-graphs", &path("nowhere"), "--discover", "--out", &out],
        &["build-graphs", &path("index.csv"), "--keep-additives", "--out", &out],
    ] {
        assert_eq!(command(arguments), cli::USAGE, "{arguments:?}");
    }
    assert!(!dir.path().join("out").exists());
}

#[test]
fn packed_shards_hold_the_same() {
    let dir = folder(3, "");
    let mut shapes = Vec::new();
    for compression in ["none", "zstd", "lz4"] {
        assert_eq!(run(dir.path(), compression, &["--compression", compression]), cli::DONE);
        let file = fs::File::open(dir.path().join(compression).join("shard-00000.arrow")).unwrap();
        let batch = arrow_ipc::reader::FileReader::try_new(file, None).unwrap().next().unwrap().unwrap();
        shapes.push(batch);
    }
    assert_eq!(shapes[0], shapes[1]);
    assert_eq!(shapes[0], shapes[2]);
}

#[test]
fn every_command_shows_an_example() {
    for (name, text) in cli::help_texts() {
        assert!(text.contains("Example:\n  atomica-prep "), "{name}: {text}");
    }
}

#[test]
fn joined_parts_are_byte_identical_to_one_build() {
    let dir = folder(100, "late,none.pdb,A,B,,,\nlate,1.pdb,A,B,,,\nc3,1.pdb,A,B,,,\n");
    let options = ["--shard-rows", "7"];
    assert_eq!(run(dir.path(), "whole", &options), cli::SOME_FAILED);
    let whole = files(&dir.path().join("whole"));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for of in [1, 3, 10] {
        let parts: Vec<String> = (1..=of).map(|i| path(&format!("{i}-{of}"))).collect();
        for (i, part) in (1..).zip(&parts) {
            let name = Path::new(part).file_name().unwrap().to_str().unwrap().to_owned();
            let code = run(dir.path(), &name, &[&options[..], &["--shard", &format!("{i}/{of}")]].concat());
            assert!([cli::DONE, cli::SOME_FAILED].contains(&code));
        }
        let out = path(&format!("joined-{of}"));
        let merge = |parts: &[String]| {
            let mut arguments = vec!["merge", "--out", &out];
            arguments.extend(parts.iter().map(String::as_str));
            command(&arguments)
        };
        assert_eq!(merge(&parts), cli::SOME_FAILED);
        assert_eq!(files(Path::new(&out)), whole, "{of} parts");
        if of > 1 {
            assert_eq!(merge(&parts), cli::USAGE, "the folder is not empty");
            fs::remove_dir_all(&out).unwrap();
            assert_eq!(merge(&parts[1..]), cli::USAGE, "a part is missing");
            let mut twice = parts.clone();
            twice.push(parts[0].clone());
            assert_eq!(merge(&twice), cli::USAGE, "a part is there twice");
            assert_eq!(merge(&[parts[0].clone(), path("1-1")]), cli::USAGE, "parts of different cuts");
        }
    }
    for wrong in ["0/3", "4/3", "1", "a/b", "1/0"] {
        assert_eq!(run(dir.path(), "never", &["--shard", wrong]), cli::USAGE, "{wrong}");
    }
}

/// Code and report of a check.
fn checked(paths: &[std::path::PathBuf], all: bool) -> (check::Outcome, String) {
    let lines = std::sync::Mutex::new(Vec::new());
    let say = |line: &str| lines.lock().unwrap().push(line.to_owned());
    let reading = atomica_prep::read::Options::default();
    let outcome = check::check(paths, all, reading, &Stop::default(), &|_, _| {}, &say).unwrap();
    (outcome, lines.into_inner().unwrap().join("\n"))
}

#[test]
fn a_check_tells_everything_at_once() {
    let dir = folder(3, "x,0.pdb,A,Z,high,train,\n,none.pdb,A,A,,dev,\ny,none.pdb,A,B,,dev,\nc1,1.pdb,A,B,,,\n");
    let index = dir.path().join("index.csv");
    let (outcome, text) = checked(std::slice::from_ref(&index), false);
    assert_eq!((outcome.rows, outcome.problems), (7, 5));
    let shown = index.display();
    for wanted in [
        format!("{shown}: line 5, column 4 (chain2): x: 0.pdb: no chain \"Z\"; the file has: A, B"),
        format!("{shown}: line 6, column 1 (id): id is empty"),
        format!("{shown}: line 6, column 4 (chain2): chain \"A\" is in chain1 and in chain2"),
        format!("{shown}: line 7, column 2 (path): y: none.pdb: cannot be read"),
        format!("{shown}: line 8, column 1 (id): c1: id \"c1\" is taken by line 3"),
        "a row that is right, for two groups of chains:\n  id,path,chain1,chain2\n".to_owned(),
        "label: 3 numbers and 1 other texts such as \"high\" (the first in line 5)".to_owned(),
        "split: dev (1), train (4); the usual names".to_owned(),
    ] {
        assert!(text.contains(&wanted), "{wanted}\n{text}");
    }
    assert_eq!(command(&["check", index.to_str().unwrap()]), cli::SOME_FAILED);
    let good = folder(2, "");
    assert_eq!(command(&["check", good.path().join("index.csv").to_str().unwrap()]), cli::DONE);
    assert_eq!(command(&["check", dir.path().join("nowhere.csv").to_str().unwrap()]), cli::USAGE);
    fs::write(&index, "id,path\n").unwrap();
    let (outcome, text) = checked(std::slice::from_ref(&index), false);
    assert!(outcome.problems == 1 && text.contains("lacks chain1, chain2") && text.contains("1abc_A_B"), "{text}");
}

#[test]
fn ligands_and_their_files_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.pdb"), with_molecules()).unwrap();
    let molecule = "t\n\n\n  1  0  0  0  0  0            999 V2000\n    0.0       0.0       0.0    C\nM  END\n";
    fs::write(dir.path().join("l.sdf"), molecule).unwrap();
    let index = dir.path().join("index.csv");
    let rows = "id,path,chain1,chain2,lig_code,lig_code1,lig_resnum1,ligand_path,ligand_index\n\
        a,a.pdb,A,A,ZN,,,,\nb,a.pdb,A,A,HEM,,,,\nc,a.pdb,A,,,,,l.sdf,0\nd,a.pdb,A,,,,,l.sdf,1\n\
        e,a.pdb,A,,,,,none.sdf,0\nf,a.pdb,A,A,LGB,LGA,401,,\ng,a.pdb,A,A,LGB,LGC,9,,\n";
    fs::write(&index, rows).unwrap();
    let (outcome, text) = checked(&[index], true);
    assert_eq!(outcome.problems, 4, "{text}");
    for wanted in [
        "line 3, column 5 (lig_code): b: a.pdb: no ligand HEM",
        "line 5, column 9 (ligand_index): d: l.sdf: no molecule 1",
        "line 6, column 8 (ligand_path): e: none.sdf",
        "line 8, column 6 (lig_code1): g: a.pdb: no ligand LGC 9",
        "for two ligands of the structure",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}
