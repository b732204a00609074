//! Header blocks: one zlib stream per direction for the whole connection, primed with the dictionary of the draft.
//!
//! A block is the number of headers, then for each its name and its value, both with their length before them; all
//! numbers have 32 bits, names are lower case, several values are joined by NUL. Source: SPDY draft 3.1, section 2.6.10.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

/// Names and values, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a header, by its lower-case name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What is no header block.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("inflate a header block")]
    Inflate(#[from] flate2::DecompressError),
    #[error("the compressed headers ended")]
    Ended,
    #[error("more than {MOST_BYTES} bytes in a header block")]
    TooLong,
    #[error("{0} headers")]
    TooMany(u32),
    #[error("a header block that breaks off")]
    Short,
    #[error("{0} bytes after a header block")]
    Long(usize),
    #[error("a header that is no text")]
    Text,
    #[error("header {0:?} twice")]
    Twice(String),
}

/// Most bytes of a block, inflated.
pub const MOST_BYTES: usize = 1 << 20;
/// Most headers of a block.
pub const MOST_HEADERS: u32 = 1000;

/// The client's direction: every block has to pass through it, in order, whether anybody wants to know it or not.
#[derive(Debug)]
pub struct Inflater {
    zlib: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }
}

impl Inflater {
    /// The headers of a compressed block.
    ///
    /// # Errors
    /// [`HeaderError`]; the connection cannot go on after one.
    pub fn headers(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(self.inflate(block)?.into())
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            let before = (self.zlib.total_in(), plain.len());
            match self.zlib.decompress_vec(block, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(HeaderError::Ended),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(DICTIONARY)?;
                }
                Err(error) => return Err(error.into()),
            }
            let taken = usize::try_from(self.zlib.total_in() - before.0).map_err(|_| HeaderError::TooLong)?;
            block = &block[taken..];
            let full = plain.len() == plain.capacity();
            if plain.len() > MOST_BYTES {
                return Err(HeaderError::TooLong);
            }
            if full {
                plain.reserve(plain.len());
            } else if block.is_empty() {
                return Ok(plain);
            } else if (taken, plain.len()) == (0, before.1) {
                return Err(HeaderError::Short);
            }
        }
    }
}

/// Our direction. What we send is short and rare, so it is stored rather than compressed, which needs no memory:
/// a compressor would hold a quarter of a megabyte per connection.
#[derive(Debug, Default)]
pub struct Deflater {
    begun: bool,
}

impl Deflater {
    /// The next block of the stream.
    pub fn block(&mut self, headers: &Headers) -> Bytes {
        let mut out = BytesMut::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.put_slice(&ZLIB_WITH_DICTIONARY);
            out.put_u32(DICTIONARY_ADLER32);
        }
        for piece in print(headers).chunks(usize::from(u16::MAX)) {
            stored(&mut out, piece);
        }
        // The empty block is what makes a reader hand out what it has (a "sync flush").
        stored(&mut out, &[]);
        out.freeze()
    }
}

/// A stored block of deflate that is not the last. Source: RFC 1951, section 3.2.4.
fn stored(out: &mut BytesMut, piece: &[u8]) {
    let length = u16::try_from(piece.len()).expect("a chunk of at most 65,535 bytes");
    out.put_u8(0);
    out.put_u16_le(length);
    out.put_u16_le(!length);
    out.put_slice(piece);
}

fn parse(mut plain: Bytes) -> Result<Headers, HeaderError> {
    let count = plain.try_get_u32().map_err(|_| HeaderError::Short)?;
    if count > MOST_HEADERS {
        return Err(HeaderError::TooMany(count));
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let (name, value) = (text(&mut plain)?, text(&mut plain)?);
        if headers.get(&name).is_some() {
            return Err(HeaderError::Twice(name));
        }
        headers.0.push((name, value));
    }
    match plain.len() {
        0 => Ok(headers),
        more => Err(HeaderError::Long(more)),
    }
}

fn text(plain: &mut Bytes) -> Result<String, HeaderError> {
    let length = plain.try_get_u32().map_err(|_| HeaderError::Short)? as usize;
    if length > plain.len() {
        return Err(HeaderError::Short);
    }
    String::from_utf8(plain.split_to(length).into()).map_err(|_| HeaderError::Text)
}

fn print(headers: &Headers) -> BytesMut {
    let number = |count: usize| u32::try_from(count).expect("headers of our own are short");
    let mut plain = BytesMut::new();
    plain.put_u32(number(headers.0.len()));
    for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
        plain.put_u32(number(text.len()));
        plain.put_slice(text.as_bytes());
    }
    plain
}

/// A zlib header (RFC 1950) with the flag that a dictionary's checksum follows.
const ZLIB_WITH_DICTIONARY: [u8; 2] = [0x78, 0xbb];
const DICTIONARY_ADLER32: u32 = 0xe3c6_a7c2;

/// What both directions begin with. Source: SPDY draft 3.1, section 2.6.10.1.
pub const DICTIONARY: &[u8; 1423] = b"\
    \0\0\0\x07options\0\0\0\x04head\0\0\0\x04post\0\0\0\x03put\0\0\0\x06delete\0\0\0\x05trace\0\0\0\x06accept\
    \0\0\0\x0eaccept-charset\0\0\0\x0faccept-encoding\0\0\0\x0faccept-language\0\0\0\x0daccept-ranges\0\0\0\x03age\
    \0\0\0\x05allow\0\0\0\x0dauthorization\0\0\0\x0dcache-control\0\0\0\x0aconnection\0\0\0\x0ccontent-base\
    \0\0\0\x10content-encoding\0\0\0\x10content-language\0\0\0\x0econtent-length\0\0\0\x10content-location\
    \0\0\0\x0bcontent-md5\0\0\0\x0dcontent-range\0\0\0\x0ccontent-type\0\0\0\x04date\0\0\0\x04etag\0\0\0\x06expect\
    \0\0\0\x07expires\0\0\0\x04from\0\0\0\x04host\0\0\0\x08if-match\0\0\0\x11if-modified-since\
    \0\0\0\x0dif-none-match\0\0\0\x08if-range\0\0\0\x13if-unmodified-since\0\0\0\x0dlast-modified\
    \0\0\0\x08location\0\0\0\x0cmax-forwards\0\0\0\x06pragma\0\0\0\x12proxy-authenticate\
    \0\0\0\x13proxy-authorization\0\0\0\x05range\0\0\0\x07referer\0\0\0\x0bretry-after\0\0\0\x06server\0\0\0\x02te\
    \0\0\0\x07trailer\0\0\0\x11transfer-encoding\0\0\0\x07upgrade\0\0\0\x0auser-agent\0\0\0\x04vary\0\0\0\x03via\
    \0\0\0\x07warning\0\0\0\x10www-authenticate\0\0\0\x06method\0\0\0\x03get\0\0\0\x06status\0\0\0\x06200 OK\
    \0\0\0\x07version\0\0\0\x08HTTP/1.1\0\0\0\x03url\0\0\0\x06public\0\0\0\x0aset-cookie\0\0\0\x0akeep-alive\
    \0\0\0\x06origin\
    100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritativ\
    e Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 I\
    nternal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov De\
    c 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/x\
    ml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset\
    =iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod test {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Headers {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Headers(pairs.iter().map(owned).collect())
    }

    /// A client's compressor, as the Go library uses it.
    struct Client(Compress);

    impl Client {
        fn new() -> Self {
            let mut zlib = Compress::new(Compression::best(), true);
            assert_eq!(zlib.set_dictionary(DICTIONARY).unwrap(), DICTIONARY_ADLER32);
            Self(zlib)
        }

        fn block(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(plain.len() + 1024);
            self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out
        }
    }

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        use sha2::{Digest, Sha256};
        let digest: String = Sha256::digest(DICTIONARY)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            digest,
            "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"
        );
    }

    #[test]
    fn blocks_of_one_connection_build_on_each_other() {
        let (mut client, mut inflater) = (Client::new(), Inflater::default());
        let lengths = ["error", "data"].map(|kind| {
            let headers = of(&[("port", "8080"), ("requestid", "7"), ("streamtype", kind)]);
            let block = client.block(&print(&headers));
            assert_eq!(inflater.headers(&block).unwrap(), headers);
            block.len()
        });
        assert!(lengths[1] < lengths[0], "{lengths:?}");
    }

    #[test]
    fn bombs_lies_and_fragments_are_refused() {
        let refused = |plain: &[u8]| Inflater::default().headers(&Client::new().block(plain)).unwrap_err();
        assert!(matches!(refused(&vec![0; MOST_BYTES + 1]), HeaderError::TooLong));
        assert!(matches!(refused(&[0, 0, 4, 0]), HeaderError::TooMany(1024)));
        assert!(matches!(refused(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']), HeaderError::Short));
        assert!(matches!(refused(&[0, 0, 0, 0, 1, 2]), HeaderError::Long(2)));
        assert!(matches!(refused(&[]), HeaderError::Short));
        assert!(matches!(
            refused(&print(&of(&[("a", ""), ("a", "")]))),
            HeaderError::Twice(_)
        ));
        assert!(Inflater::default().headers(&[1, 2, 3]).is_err());
        // Another dictionary than ours.
        assert!(Inflater::default().headers(&[0x78, 0xbb, 1, 2, 3, 4, 0]).is_err());
    }

    fn headers() -> impl Strategy<Value = Headers> {
        prop::collection::btree_map("[a-z-]{1,12}", "\\PC{0,40}", 0..8)
            .prop_map(|map| Headers(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed(blocks in prop::collection::vec(headers(), 1..6)) {
            let (mut deflater, mut client) = (Deflater::default(), Client::new());
            let (mut ours, mut theirs) = (Inflater::default(), Inflater::default());
            for headers in blocks {
                prop_assert_eq!(&ours.headers(&deflater.block(&headers)).unwrap(), &headers);
                prop_assert_eq!(&theirs.headers(&client.block(&print(&headers))).unwrap(), &headers);
            }
        }

        #[test]
        fn no_bytes_bring_it_down(noise in prop::collection::vec(any::<u8>(), 0..500), primed in any::<bool>()) {
            let mut inflater = Inflater::default();
            if primed {
                inflater.headers(&Deflater::default().block(&Headers::default())).unwrap();
            }
            let _ = inflater.headers(&noise);
            let _ = parse(noise.into());
        }
    }
}
