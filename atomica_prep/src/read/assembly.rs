//! Biological assemblies: which copies of which chains the file says make one up, and the structure with all of them.

use std::collections::{HashMap, HashSet};

use crate::accounts::Unread;
use crate::error::{Error, Result};
use crate::neighbors::Cells;
use crate::structure::{Residue, Structure};

/// Rotation and translation, by rows.
pub(super) type Matrix = [[f64; 4]; 3];

pub(super) const IDENTITY: Matrix = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];

/// First `b`, then `a`.
pub(super) fn product(a: Matrix, b: Matrix) -> Matrix {
    let at = |i: usize, j: usize| {
        let row = a.get(i).copied().unwrap_or_default();
        let column = |k: usize| b.get(k).and_then(|r| r.get(j)).copied().unwrap_or(0.0);
        row[0] * column(0) + row[1] * column(1) + row[2] * column(2) + if j == 3 { row[3] } else { 0.0 }
    };
    [0, 1, 2].map(|i| [0, 1, 2, 3].map(|j| at(i, j)))
}

fn apply(m: &Matrix, [x, y, z]: [f64; 3]) -> [f64; 3] {
    m.map(|[a, b, c, t]| a * x + b * y + c * z + t)
}

/// Chains that are moved together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Copy {
    /// Ids of chains.
    pub(super) chains: Vec<String>,
    /// How to move them.
    pub(super) matrix: Matrix,
}

/// The copies of an assembly that a file describes; all assemblies by their ids.
#[derive(Debug, Default)]
pub(super) struct Described {
    /// In the order of the file.
    pub(super) assemblies: Vec<(String, Vec<Copy>)>,
    /// The ids are the archive's, not the author's.
    pub(super) label_ids: bool,
}

impl Described {
    /// Takes the copies of these assemblies, which cannot be made whole.
    fn clear(&mut self, damaged: &[usize]) {
        for at in damaged {
            if let Some((_, copies)) = self.assemblies.get_mut(*at) {
                copies.clear();
            }
        }
    }
}

/// Makes an assembly. `labels` are the archive's chain ids of the residues, where the copies are told by them.
pub(super) fn build(
    structure: &Structure,
    described: &Described,
    number: u32,
    labels: Option<&[String]>,
    shown: &str,
) -> Result<Structure> {
    let wanted = number.to_string();
    let Some((_, copies)) = described.assemblies.iter().find(|(id, _)| *id == wanted) else {
        let ids: Vec<&str> = described.assemblies.iter().map(|(id, _)| id.as_str()).collect();
        let present = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        return Err(Error::MissingAssembly { path: shown.to_owned(), assembly: wanted, present });
    };
    let id_of = |at: usize, residue: &Residue| -> &str {
        match labels {
            Some(labels) => labels.get(at).map_or("", String::as_str),
            None => structure.chains.get(residue.chain).map_or("", String::as_str),
        }
    };
    let mut out = Structure {
        parents: structure.parents.clone(),
        repairs: structure.repairs.clone(),
        accounts: structure.accounts,
        ..Structure::default()
    };
    let mut taken: HashSet<String> = structure.chains.iter().cloned().collect();
    // How often each residue was taken, and each chain's names by that number.
    let mut times = vec![0usize; structure.residues.len()];
    let mut places: HashMap<(usize, usize), usize> = HashMap::new();
    // Where the residues with stated bonds went, and how they were moved.
    let mut bonded: HashMap<usize, Vec<(&Matrix, usize)>> = HashMap::new();
    for copy in copies {
        let wanted: HashSet<&str> = copy.chains.iter().map(String::as_str).collect();
        for (at, residue) in structure.residues.iter().enumerate().filter(|(at, r)| wanted.contains(id_of(*at, r))) {
            let Some(count) = times.get_mut(at) else { continue };
            *count += 1;
            let number = *count;
            let chain = *places.entry((residue.chain, number)).or_insert_with(|| {
                let own = structure.chains.get(residue.chain).map_or("", String::as_str);
                let name = match number {
                    1 => own.to_owned(),
                    _ => free(own, number, &taken),
                };
                taken.insert(name.clone());
                out.chains.push(name);
                out.chains.len() - 1
            });
            if !structure.bonds_of(residue).is_empty() {
                bonded.entry(at).or_default().push((&copy.matrix, out.positions.len()));
            }
            push(&mut out, structure, residue, chain, &copy.matrix);
        }
    }
    if out.positions.is_empty() {
        let present = structure.chains.join(", ");
        return Err(Error::MissingAssembly {
            path: shown.to_owned(),
            assembly: format!("{wanted} (of chains that are not there; it has chains {present})"),
            present: "none that can be made".to_owned(),
        });
    }
    for (a, b) in &structure.bonds {
        let ends = [a, b].map(|atom| {
            let at = structure.residue_of(*atom);
            let start = structure.residues.get(at).map_or(*atom, |r| r.start);
            (bonded.get(&at).map_or(&[][..], Vec::as_slice), atom - start)
        });
        let [(one, a), (other, b)] = ends;
        for (matrix, from) in one {
            // Bonds are within what is moved alike.
            let there = other.iter().filter(|(other, _)| other == matrix);
            out.bonds.extend(there.map(|(_, to)| (from + a, to + b)));
        }
    }
    out.bonds.sort_unstable();
    out.bonds.dedup();
    let outside = structure.residues.iter().zip(&times).filter(|(_, times)| **times == 0);
    let outside: u64 = outside.map(|(r, _)| (r.end - r.start) as u64).sum();
    out.accounts.leave(Unread::OutsideAssembly, outside);
    out.accounts.copies = (out.positions.len() as u64 + outside).saturating_sub(structure.positions.len() as u64);
    out.accounts.settle(out.positions.len(), shown)?;
    Ok(out)
}

/// `A-2`, or the next number that is free.
fn free(id: &str, number: usize, taken: &HashSet<String>) -> String {
    (number..).map(|n| format!("{id}-{n}")).find(|name| !taken.contains(name)).unwrap_or_default()
}

fn push(out: &mut Structure, from: &Structure, residue: &Residue, chain: usize, matrix: &Matrix) {
    let start = out.positions.len();
    let moved = from.positions_of(residue).iter().map(|p| if *matrix == IDENTITY { *p } else { apply(matrix, *p) });
    out.positions.extend(moved);
    out.elements.extend_from_slice(from.elements_of(residue));
    out.atom_names.extend_from_slice(from.names_of(residue));
    out.residues.push(Residue { start, end: out.positions.len(), chain, ..*residue });
}

/// Models as copies of one another. `None` if they lie upon one another, as conformers do.
pub(super) fn join(models: &[Structure]) -> Option<Structure> {
    /// Å; atoms of two molecules are never as near.
    const SAME: f64 = 1.0;
    let (first, others) = models.split_first()?;
    let cells = Cells::new(&first.positions, 4.0);
    for other in others {
        let on_top = other.positions.iter().filter(|p| {
            let mut found = false;
            cells.near(**p, SAME, |i| {
                found |= first.positions.get(i).is_some_and(|q| {
                    let [x, y, z] = [q[0] - p[0], q[1] - p[1], q[2] - p[2]];
                    x * x + y * y + z * z < SAME * SAME
                });
            });
            found
        });
        if on_top.count() * 20 > other.positions.len() {
            return None;
        }
    }
    let mut out = Structure { parents: first.parents.clone(), repairs: first.repairs.clone(), ..Structure::default() };
    let mut taken: HashSet<String> = HashSet::new();
    for (number, model) in (1..).zip(models) {
        let own: Vec<usize> = model
            .chains
            .iter()
            .map(|id| {
                let name = if taken.contains(id) { free(id, number, &taken) } else { id.clone() };
                taken.insert(name.clone());
                out.chains.push(name);
                out.chains.len() - 1
            })
            .collect();
        let first = out.positions.len();
        out.bonds.extend(model.bonds.iter().map(|(a, b)| (first + a, first + b)));
        for residue in &model.residues {
            let chain = own.get(residue.chain).copied().unwrap_or(0);
            push(&mut out, model, residue, chain, &IDENTITY);
        }
        out.accounts.add(&model.accounts);
    }
    Some(out)
}

/// REMARK 350 of a PDB file.
pub(super) fn of_pdb(text: &[u8]) -> Described {
    let mut described = Described::default();
    let mut chains: Vec<String> = Vec::new();
    let mut rows: Vec<[f64; 4]> = Vec::new();
    let mut used = true;
    let mut damaged: Vec<usize> = Vec::new();
    for line in text.split(|c| *c == b'\n') {
        let Some(rest) = line.strip_prefix(b"REMARK 350").and_then(|r| std::str::from_utf8(r).ok()) else { continue };
        let rest = rest.trim();
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|c| !c.is_empty()).map(|c| c.trim_matches('\0').to_owned()).collect()
        };
        if let Some(id) = rest.strip_prefix("BIOMOLECULE:") {
            described.assemblies.push((id.trim().to_owned(), Vec::new()));
            (chains, used) = (Vec::new(), true);
        } else if let Some((_, names)) =
            rest.split_once("CHAINS:").filter(|(head, _)| head.starts_with("APPLY") || head.trim() == "AND")
        {
            if used {
                chains.clear();
                used = false;
            }
            chains.extend(list(names));
        } else if rest.starts_with("BIOMT") {
            used = true;
            let numbers: Vec<f64> = rest.split_whitespace().skip(2).filter_map(|w| w.parse().ok()).collect();
            if rest.starts_with("BIOMT1") {
                rows.clear();
            }
            if let [a, b, c, t] = numbers.as_slice() {
                rows.push([*a, *b, *c, *t]);
            }
            if let (true, Some((_, copies))) = (rest.starts_with("BIOMT3"), described.assemblies.last_mut()) {
                match rows.as_slice() {
                    [x, y, z] => copies.push(Copy { chains: chains.clone(), matrix: [*x, *y, *z] }),
                    // An assembly that lacks a copy is another one.
                    _ => damaged.push(described.assemblies.len() - 1),
                }
            }
        }
    }
    described.clear(&damaged);
    described
}

/// The tables of mmCIF: of `_pdbx_struct_assembly_gen` assembly, operators and chains; of `_pdbx_struct_oper_list` each
/// operator by its id.
pub(super) fn of_tables(generators: &[[String; 3]], operators: &HashMap<String, Matrix>) -> Described {
    let mut described = Described { label_ids: true, ..Described::default() };
    let mut damaged: Vec<usize> = Vec::new();
    for [assembly, expression, chains] in generators {
        let chains: Vec<String> = chains.split(',').map(|c| c.trim().to_owned()).collect();
        let matrices = matrices(expression, operators);
        let place = described.assemblies.iter().position(|(id, _)| id == assembly).unwrap_or_else(|| {
            described.assemblies.push((assembly.clone(), Vec::new()));
            described.assemblies.len() - 1
        });
        if matrices.is_empty() {
            damaged.push(place);
        }
        if let Some((_, known)) = described.assemblies.get_mut(place) {
            known.extend(matrices.into_iter().map(|matrix| Copy { chains: chains.clone(), matrix }));
        }
    }
    described.clear(&damaged);
    described
}

/// `1`, `1,2`, `(1-60)`, `(1-60)(61-88)`, `(X0)(1-5)`: the last operator is applied first.
fn matrices(expression: &str, operators: &HashMap<String, Matrix>) -> Vec<Matrix> {
    let mut out = vec![IDENTITY];
    let groups = expression.split(['(', ')']).map(str::trim).filter(|g| !g.is_empty());
    for group in groups {
        let mut ids: Vec<String> = Vec::new();
        for part in group.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match part.split_once('-').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?))) {
                Some((first, last)) if last.saturating_sub(first) < 10_000 => {
                    ids.extend((first..=last).map(|n| n.to_string()));
                }
                _ => ids.push(part.to_owned()),
            }
        }
        let known: Vec<Matrix> = ids.iter().filter_map(|id| operators.get(id)).copied().collect();
        if known.len() < ids.len() || out.len().saturating_mul(known.len()) > 100_000 {
            return Vec::new();
        }
        out = out.iter().flat_map(|a| known.iter().map(move |b| product(*a, *b))).collect();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let shift = |x: f64| {
            let mut m = IDENTITY;
            m[0][3] = x;
            m
        };
        let operators: HashMap<String, Matrix> =
            [("1", 0.0), ("2", 1.0), ("3", 2.0), ("P", 10.0)].map(|(id, x)| (id.to_owned(), shift(x))).into();
        let moves = |text: &str| matrices(text, &operators).iter().map(|m| m[0][3]).collect::<Vec<_>>();
        assert_eq!(moves("1"), [0.0]);
        assert_eq!(moves("1,3"), [0.0, 2.0]);
        assert!(moves("1,4").is_empty(), "one of them is not there");
        assert_eq!(moves("(1-3)"), [0.0, 1.0, 2.0]);
        assert_eq!(moves("(P)(1-2)"), [10.0, 11.0]);
        assert_eq!(moves("(1,2)(2,3)"), [1.0, 2.0, 2.0, 3.0]);
    }

    #[test]
    fn remark_350() {
        let text = b"REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: A, B,\nREMARK 350                    AND CHAINS: C\n\
            REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000\n\
            REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000\n\
            REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        5.00000\n";
        let described = of_pdb(text);
        let (id, copies) = &described.assemblies[0];
        assert_eq!((id.as_str(), copies.len()), ("1", 1));
        assert_eq!(copies[0].chains, ["A", "B", "C"]);
        assert_eq!(copies[0].matrix[2][3], 5.0);
    }
}
