//! The answer of ListContainers, with items that the server keeps encoded.
//!
//! A node has hundreds of containers of which a list says the same every second, but for their state. To make each item's
//! some thirty strings and maps anew costs ten times what it costs to send them.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut, Bytes},
    encoding::{
        DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, int32, key_len, message, skip_field,
    },
};

use super::Container;

/// Answers ListContainers. On the wire it is what `api.proto` says; who receives it finds all items in `containers`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListContainersResponse {
    pub containers: Vec<Container>,
    /// Items that are sent after the others.
    pub encoded: Vec<EncodedContainer>,
}

/// A [`Container`] in two parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedContainer {
    /// All fields but the state.
    pub fixed: Bytes,
    pub state: i32,
}

/// Tag of `ListContainersResponse.containers`.
const CONTAINERS: u32 = 1;
/// Tag of `Container.state`.
const STATE: u32 = 6;

impl EncodedContainer {
    /// Takes a container apart.
    pub fn fixed(mut container: Container) -> Bytes {
        container.state = 0;
        container.encode_to_vec().into()
    }

    fn len(&self) -> usize {
        let state = if self.state == 0 {
            0
        } else {
            int32::encoded_len(STATE, &self.state)
        };
        self.fixed.len() + state
    }
}

impl Message for ListContainersResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(CONTAINERS, &self.containers, buf);
        for item in &self.encoded {
            encode_key(CONTAINERS, WireType::LengthDelimited, buf);
            encode_varint(item.len() as u64, buf);
            buf.put_slice(&item.fixed);
            if item.state != 0 {
                int32::encode(STATE, &item.state, buf);
            }
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            CONTAINERS => message::merge_repeated(wire_type, &mut self.containers, buf, context),
            _ => skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let framed = |item: &EncodedContainer| key_len(CONTAINERS) + encoded_len_varint(item.len() as u64) + item.len();
        message::encoded_len_repeated(CONTAINERS, &self.containers) + self.encoded.iter().map(framed).sum::<usize>()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_kept_encoded_comes_back_as_it_was() {
        let container = |number: i32| Container {
            id: format!("container-{number}"),
            state: number,
            labels: [("key".into(), "value".into())].into(),
            ..Default::default()
        };
        let containers: Vec<_> = (0..4).map(container).collect();
        let encode = |container: &Container| EncodedContainer {
            fixed: EncodedContainer::fixed(container.clone()),
            state: container.state,
        };
        let sent = ListContainersResponse {
            containers: containers[..1].to_vec(),
            encoded: containers[1..].iter().map(encode).collect(),
        };
        let bytes = sent.encode_to_vec();
        assert_eq!(bytes.len(), sent.encoded_len());
        let received = ListContainersResponse::decode(&bytes[..]).unwrap();
        assert_eq!((received.containers, received.encoded.len()), (containers, 0));
    }
}
