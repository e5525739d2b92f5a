//! BinaryCIF as tests write it.

/// A MessagePack value to be written.
pub(super) enum Pack<'a> {
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
    Text(&'a str),
    Bytes(Vec<u8>),
    List(Vec<Pack<'a>>),
    Map(Vec<(&'a str, Pack<'a>)>),
}
use Pack::{Bool, Bytes, Float, Int, List, Map, Nil, Text};

impl Pack<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Int(value) => {
                out.push(0xd3);
                out.extend(value.to_be_bytes());
            }
            Float(value) => {
                out.push(0xcb);
                out.extend(value.to_be_bytes());
            }
            Bool(value) => out.push(0xc2 + u8::from(*value)),
            Nil => out.push(0xc0),
            Text(text) => {
                out.push(0xda);
                out.extend((text.len() as u16).to_be_bytes());
                out.extend(text.as_bytes());
            }
            Bytes(bytes) => {
                out.push(0xc6);
                out.extend((bytes.len() as u32).to_be_bytes());
                out.extend(bytes);
            }
            List(members) => {
                out.push(0xdc);
                out.extend((members.len() as u16).to_be_bytes());
                members.iter().for_each(|m| m.write(out));
            }
            Map(members) => {
                out.push(0xde);
                out.extend((members.len() as u16).to_be_bytes());
                for (key, value) in members {
                    Text(key).write(out);
                    value.write(out);
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

pub(super) fn byte_array_of(kind: i64) -> Pack<'static> {
    Map(vec![("kind", Text("ByteArray")), ("type", Int(kind))])
}

pub(super) fn data(encoding: Vec<Pack<'static>>, bytes: Vec<u8>) -> Pack<'static> {
    Map(vec![("encoding", List(encoding)), ("data", Bytes(bytes))])
}

/// A StringArray of pieces of "CAN".
pub(super) fn texts_by(
    offsets: Pack<'static>,
    offset_encoding: Vec<Pack<'static>>,
    rows: Vec<Pack<'static>>,
) -> Pack<'static> {
    Map(vec![
        ("kind", Text("StringArray")),
        ("stringData", Text("CAN")),
        ("offsets", offsets),
        ("offsetEncoding", List(offset_encoding)),
        ("dataEncoding", List(rows)),
    ])
}

pub(super) fn texts(offsets: &[u8], rows: &[u8]) -> (Vec<Pack<'static>>, Vec<u8>) {
    let encoding = texts_by(Bytes(offsets.to_vec()), vec![byte_array_of(4)], vec![byte_array_of(1)]);
    (vec![encoding], rows.to_vec())
}
