//! D-Bus messages, as much of them as systemd's manager needs: pure functions over bytes.
//!
//! Source: D-Bus Specification, "Type System", "Message Protocol".

/// A value that a property can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Flag(bool),
    Number(u64),
    Text(String),
    Pids(Vec<u32>),
    Bytes(Vec<u8>),
}

/// A call of a method of systemd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub signature: &'a str,
    pub body: Writer,
}

/// What came: an answer or a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    /// Of an answer: the call's number.
    pub reply_to: Option<u32>,
    pub member: String,
    /// Of a refusal: its name, such as `org.freedesktop.systemd1.NoSuchUnit`.
    pub error: String,
    pub body: Vec<u8>,
}

pub const CALL: u8 = 1;
pub const REFUSAL: u8 = 3;
pub const SIGNAL: u8 = 4;

/// The fixed part of a header, which tells the length of the rest.
pub const FIXED: usize = 16;
/// More than systemd ever says.
const LONGEST: usize = 1 << 24;
const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

impl Call<'_> {
    /// The bytes of the call, numbered `serial`, to whoever is at the other end.
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes.extend([ENDIAN, CALL, 0, 1]);
        out.u32(self.body.bytes.len().try_into().unwrap_or(u32::MAX));
        out.u32(serial);
        out.array(8, |out| {
            let fields = [(1, "o", self.path), (2, "s", self.interface), (3, "s", self.member)];
            for (field, kind, value) in fields {
                out.pad(8);
                out.bytes.push(field);
                out.signature(kind);
                out.text(value);
            }
            out.pad(8);
            out.bytes.push(8);
            out.signature("g");
            out.signature(self.signature);
        });
        out.pad(8);
        out.bytes.extend(&self.body.bytes);
        out.bytes
    }
}

impl Message {
    /// How many bytes follow a header's fixed part; `None` for what is no message of this machine's.
    pub fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
        let mut reader = Reader::new(fixed);
        let [endian, _, _, version] = [reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?];
        let (body, _, fields) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let length = (fields as usize)
            .checked_next_multiple_of(8)?
            .checked_add(body as usize)?;
        (endian == ENDIAN && version == 1 && length <= LONGEST).then_some(length)
    }

    /// A whole message.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        reader.u8()?;
        let kind = reader.u8()?;
        reader.take(2)?;
        let body = reader.u32()? as usize;
        reader.u32()?;
        let fields = reader.u32()? as usize;
        let end = FIXED.checked_add(fields)?;
        let mut message = Self {
            kind,
            ..Self::default()
        };
        while reader.at < end {
            reader.pad(8)?;
            let field = reader.u8()?;
            let kind = reader.signature()?;
            match (field, kind) {
                (3, "s") => message.member = reader.text()?.to_owned(),
                (4, "s") => message.error = reader.text()?.to_owned(),
                (5, "u") => message.reply_to = Some(reader.u32()?),
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                _ => return None,
            }
        }
        reader.pad(8)?;
        message.body = reader.take(body)?.to_owned();
        Some(message)
    }
}

/// Values one after the other, each at its alignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.pad(4);
        self.bytes.extend(value.to_ne_bytes());
        self
    }

    pub fn flag(&mut self, value: bool) -> &mut Self {
        self.u32(u32::from(value))
    }

    pub fn text(&mut self, value: &str) -> &mut Self {
        self.u32(value.len().try_into().unwrap_or(u32::MAX));
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self
    }

    /// `a(sv)`.
    pub fn properties(&mut self, properties: &[(&str, Value)]) -> &mut Self {
        self.array(8, |out| {
            for (name, value) in properties {
                out.pad(8);
                out.text(name);
                out.variant(value);
            }
        })
    }

    /// An array without elements, whose elements would be aligned to 8.
    pub fn nothing(&mut self) -> &mut Self {
        self.array(8, |_| {})
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Flag(flag) => {
                self.signature("b");
                self.flag(*flag);
            }
            Value::Number(number) => {
                self.signature("t");
                self.pad(8);
                self.bytes.extend(number.to_ne_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Pids(pids) => {
                self.signature("au");
                self.array(4, |out| {
                    for pid in pids {
                        out.u32(*pid);
                    }
                });
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |out| out.bytes.extend(bytes));
            }
        }
    }

    fn signature(&mut self, value: &str) {
        self.bytes.push(value.len().try_into().unwrap_or(u8::MAX));
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
    }

    /// The length comes before the padding of the first element and does not count it.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) -> &mut Self {
        self.u32(0);
        let length = self.bytes.len() - 4;
        self.pad(alignment);
        let start = self.bytes.len();
        elements(self);
        let count = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[length..length + 4].copy_from_slice(&count.to_ne_bytes());
        self
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}

/// Reads values back; `None` once the bytes are not what was asked for.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.pad(4)?;
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A text or an object's path.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        let text = self.take(length)?;
        (self.u8()? == 0).then_some(())?;
        std::str::from_utf8(text).ok()
    }

    pub fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        let text = self.take(length)?;
        (self.u8()? == 0).then_some(())?;
        std::str::from_utf8(text).ok()
    }

    /// To the beginning of a structure.
    pub fn structure(&mut self) -> Option<()> {
        self.pad(8)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn pad(&mut self, alignment: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(alignment)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Flag),
            any::<u64>().prop_map(Value::Number),
            ".{0,20}".prop_map(Value::Text),
            proptest::collection::vec(any::<u32>(), 0..5).prop_map(Value::Pids),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        ]
    }

    /// What `Writer::variant` wrote.
    fn read_variant(reader: &mut Reader<'_>) -> Option<Value> {
        Some(match reader.signature()? {
            "b" => Value::Flag(reader.u32()? == 1),
            "t" => {
                reader.pad(8)?;
                Value::Number(u64::from_ne_bytes(reader.take(8)?.try_into().ok()?))
            }
            "s" => Value::Text(reader.text()?.to_owned()),
            "au" => {
                let count = reader.u32()? / 4;
                Value::Pids((0..count).map(|_| reader.u32()).collect::<Option<_>>()?)
            }
            "ay" => {
                let count = reader.u32()? as usize;
                Value::Bytes(reader.take(count)?.to_owned())
            }
            _ => return None,
        })
    }

    proptest! {
        #[test]
        fn properties_come_back(values in proptest::collection::vec(value(), 0..6), text in ".{0,9}") {
            let properties: Vec<_> = values.iter().map(|value| ("Name", value.clone())).collect();
            let mut writer = Writer::default();
            writer.text(&text).properties(&properties);
            let mut reader = Reader::new(&writer.bytes);
            prop_assert_eq!(reader.text(), Some(text.as_str()));
            let length = reader.u32().unwrap() as usize;
            reader.pad(8).unwrap();
            prop_assert_eq!(reader.at + length, writer.bytes.len());
            for value in values {
                reader.structure().unwrap();
                prop_assert_eq!(reader.text(), Some("Name"));
                prop_assert_eq!(read_variant(&mut reader), Some(value));
            }
            prop_assert_eq!(reader.at, writer.bytes.len());
        }

        #[test]
        fn a_call_is_a_message(text in ".{0,40}", member in "[A-Za-z]{1,30}", serial: u32) {
            let mut body = Writer::default();
            body.text(&text);
            let call = Call { path: "/a/b", interface: "c.d", member: &member, signature: "s", body };
            let bytes = call.encode(serial);
            let fixed: [u8; FIXED] = bytes[..FIXED].try_into().unwrap();
            prop_assert_eq!(Message::rest(&fixed), Some(bytes.len() - FIXED));
            let message = Message::decode(&bytes).unwrap();
            prop_assert_eq!((message.kind, &message.member), (CALL, &member));
            prop_assert_eq!(Reader::new(&message.body).text(), Some(text.as_str()));
            for end in 0..bytes.len() {
                prop_assert_eq!(Message::decode(&bytes[..end]), None);
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
            if let Some(Ok(fixed)) = bytes.get(..FIXED).map(<&[u8; FIXED]>::try_from) {
                let _ = Message::rest(fixed);
            }
        }
    }

    /// Hand-checked against the specification, so that encode and decode are not wrong alike.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_call_has_the_bytes_of_the_specification() {
        let mut body = Writer::default();
        body.flag(true);
        let call = Call {
            path: "/p",
            interface: "i.i",
            member: "M",
            signature: "b",
            body,
        };
        let expected = [
            b"l\x01\x00\x01\x04\x00\x00\x00\x07\x00\x00\x00\x37\x00\x00\x00".as_slice(),
            b"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x03\x00\x00\x00i.i\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x01\x00\x00\x00M\x00\x00\x00\x00\x00\x00\x00",
            b"\x08\x01g\x00\x01b\x00\x00",
            b"\x01\x00\x00\x00",
        ]
        .concat();
        assert_eq!(call.encode(7), expected);
    }
}
