//! An ONNX file without its large weights.
//!
//! Protocol buffers are walked here just far enough to leave out the raw data of the initializers: `ModelProto.graph`
//! (7), `GraphProto.initializer` (5), `TensorProto.raw_data` (9). What is left is decoded as usual, and the weights are
//! read later, each when it is packed.

use super::Source;
use maskgit_core::{Error, Result};

/// Raw data of fewer bytes stays where it is.
const MIN_BYTES: u64 = 1024;
/// Bytes read at once.
const BUFFER: usize = 1 << 16;
/// What is left of a file may not be larger: the published models have some megabytes at most.
const MAX_SKELETON: u64 = 256 << 20;
/// As many weights may have their raw data elsewhere or here: the largest published models have some thousand.
const MAX_WEIGHTS: usize = 1 << 16;

/// A place in the file: first byte and number of bytes.
pub(super) type Range = (u64, u64);

/// The file without large raw data, and for each initializer, in order, where its raw data was.
pub(super) struct Skeleton {
    pub(super) bytes: Vec<u8>,
    pub(super) raw: Vec<Option<Range>>,
}

/// Reads a file from start to end through a buffer.
struct Reader<'a> {
    source: &'a Source,
    buffer: Vec<u8>,
    /// Where the buffer starts.
    start: u64,
    /// The next byte.
    at: u64,
    /// How many more bytes of the file may be kept.
    room: u64,
}

/// One field of a message: its number, its wire type, and its value.
struct Field {
    number: u64,
    /// The field from its tag to where a length-delimited value starts, or to its end.
    head: Vec<u8>,
    /// The length of a length-delimited value.
    len: Option<u64>,
}

fn damaged() -> Error {
    Error::engine("it is not an ONNX model: its protocol buffers cannot be read")
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8> {
        let place = self.at - self.start;
        if place >= self.buffer.len() as u64 {
            let len = BUFFER.min(usize::try_from(self.source.len().saturating_sub(self.at)).unwrap_or(BUFFER));
            self.buffer = self.source.read(self.at, len)?;
            self.start = self.at;
        }
        let byte = self.buffer.get((self.at - self.start) as usize).copied().ok_or_else(damaged)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self, head: &mut Vec<u8>) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            head.push(byte);
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    /// The next field's head; a value that is not length-delimited belongs to it.
    fn field(&mut self, end: u64) -> Result<Field> {
        let mut head = Vec::new();
        let tag = self.varint(&mut head)?;
        let mut len = None;
        match tag & 7 {
            0 => drop(self.varint(&mut head)?),
            1 => (0..8).try_for_each(|_| self.byte().map(|b| head.push(b)))?,
            2 => len = Some(self.varint(&mut head)?),
            5 => (0..4).try_for_each(|_| self.byte().map(|b| head.push(b)))?,
            _ => return Err(damaged()),
        }
        if self.at.checked_add(len.unwrap_or(0)).is_none_or(|stop| stop > end) {
            return Err(damaged());
        }
        Ok(Field { number: tag >> 3, head, len })
    }

    /// Takes `len` bytes of the room that is left for what is kept.
    fn keep(&mut self, len: u64) -> Result<()> {
        match self.room.checked_sub(len) {
            Some(room) => {
                self.room = room;
                Ok(())
            }
            None => Err(Error::engine("the graph is too large, even without the raw data of its weights")),
        }
    }

    fn copy(&mut self, len: u64, out: &mut Vec<u8>) -> Result<()> {
        self.keep(len)?;
        out.extend(self.source.read(self.at, usize::try_from(len).map_err(|_| damaged())?)?);
        self.skip(len)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.at = self.at.checked_add(len).ok_or_else(damaged)?;
        Ok(())
    }
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a length-delimited field.
fn push_message(number: u64, value: &[u8], out: &mut Vec<u8>) {
    push_varint(number << 3 | 2, out);
    push_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Takes a length-delimited field, or leaves it to be copied: the reader behind its head, the field, its length, and
/// the copy.
type Special<'a> = dyn FnMut(&mut Reader<'_>, &Field, u64, &mut Vec<u8>) -> Result<bool> + 'a;

/// Copies a message but for the fields that `special` takes; it is given the field, and where the copy goes.
fn message(reader: &mut Reader<'_>, len: u64, out: &mut Vec<u8>, special: &mut Special<'_>) -> Result<()> {
    let end = reader.at.checked_add(len).ok_or_else(damaged)?;
    while reader.at < end {
        let field = reader.field(end)?;
        reader.keep(field.head.len() as u64)?;
        match field.len {
            Some(len) => {
                if !special(reader, &field, len, out)? {
                    out.extend_from_slice(&field.head);
                    reader.copy(len, out)?;
                }
            }
            None => out.extend_from_slice(&field.head),
        }
    }
    Ok(())
}

/// Reads a file's skeleton.
pub(super) fn skeleton(source: &Source) -> Result<Skeleton> {
    within(source, MAX_SKELETON)
}

/// The same, of at most `room` bytes.
fn within(source: &Source, room: u64) -> Result<Skeleton> {
    let mut reader = Reader { source, buffer: Vec::new(), start: 0, at: 0, room };
    let mut raw = Vec::new();
    let mut bytes = Vec::new();
    message(&mut reader, source.len(), &mut bytes, &mut |reader, field, len, out| {
        if field.number != 7 {
            return Ok(false);
        }
        let mut graph = Vec::new();
        message(reader, len, &mut graph, &mut |reader, field, len, out| {
            if field.number != 5 {
                return Ok(false);
            }
            let mut place = None;
            let mut tensor = Vec::new();
            message(reader, len, &mut tensor, &mut |reader, field, len, _| {
                if field.number != 9 || len < MIN_BYTES {
                    return Ok(false);
                }
                place = Some((reader.at, len));
                reader.skip(len)?;
                Ok(true)
            })?;
            if raw.len() == MAX_WEIGHTS {
                return Err(Error::engine(format!("the graph has more than {MAX_WEIGHTS} weights")));
            }
            raw.push(place);
            push_message(5, &tensor, out);
            Ok(true)
        })?;
        push_message(7, &graph, out);
        Ok(true)
    })?;
    Ok(Skeleton { bytes, raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of one large and one small initializer, between other fields.
    fn model() -> Vec<u8> {
        let tensor = |name: &str, bytes: usize| {
            let mut tensor = vec![1 << 3, 7];
            push_message(8, name.as_bytes(), &mut tensor);
            push_message(9, &vec![5; bytes], &mut tensor);
            tensor
        };
        let mut graph = Vec::new();
        push_message(1, b"node", &mut graph);
        push_message(5, &tensor("large", 5000), &mut graph);
        push_message(5, &tensor("small", 3), &mut graph);
        push_message(2, b"name", &mut graph);
        let mut model = vec![1 << 3, 9];
        push_message(7, &graph, &mut model);
        push_message(8, b"opset", &mut model);
        model
    }

    #[test]
    fn only_large_raw_data_is_left_out() {
        let model = model();
        let found = skeleton(&Source::from(model.clone())).unwrap();
        let Some((start, len)) = found.raw[0] else { panic!("no place for the large weights") };
        assert_eq!(found.raw[1], None);
        assert_eq!(len, 5000);
        assert_eq!(&model[start as usize..][..5000], vec![5; 5000]);
        assert!(found.bytes.len() < 100);
        let text = String::from_utf8_lossy(&found.bytes);
        for part in ["node", "large", "small", "name", "opset"] {
            assert!(text.contains(part), "{part} is missing");
        }
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_file() {
        let model = model();
        for len in 0..model.len() {
            // A cut between two fields of the outermost message leaves a valid file; no cut may panic.
            let cut = skeleton(&Source::from(model[..len].to_vec()));
            assert!(cut.is_err() || len <= 2 || len > model.len() - 8, "{len} of {} bytes", model.len());
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_errors() {
        for bytes in [
            vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            vec![0x3b],
            vec![0x3a, 4, 0x2a, 9, 1, 1],
        ] {
            assert!(skeleton(&Source::from(bytes.clone())).is_err(), "{bytes:?}");
        }
    }

    /// What is kept has a bound as a whole, however many fields it comes in.
    #[test]
    fn what_is_kept_has_a_bound() {
        let mut graph = Vec::new();
        for _ in 0..100 {
            push_message(5, &[1 << 3, 7], &mut graph);
        }
        let mut model = Vec::new();
        push_message(7, &graph, &mut model);
        let small: Vec<u8> = [1 << 3, 9].repeat(100);
        for bytes in [model, small] {
            let (source, len) = (Source::from(bytes.clone()), bytes.len() as u64);
            assert!(within(&source, len).is_ok());
            let error = within(&source, len / 2).err().expect("too large").to_string();
            assert!(error.contains("without the raw data"), "{error}");
        }
    }
}
