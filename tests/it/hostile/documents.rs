//! Hostile manifests, indexes and configs.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::layers::Expect::{self, Harmless, Refused};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a registry serves of one repository.
pub struct Image {
    pub manifest: Vec<u8>,
    pub media_type: &'static str,
    /// By digest: further manifests, the config, the layers.
    pub content: Vec<(String, Vec<u8>)>,
}

/// One of the corpus.
pub struct Document {
    pub name: &'static str,
    pub image: Image,
    pub expect: Expect,
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Image {
    /// An honest image of these layers: served bytes, and what they are uncompressed.
    pub fn of(layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
        Image::edited(layers, |_| {}, |_| {})
    }

    fn edited(
        layers: &[(Vec<u8>, Vec<u8>)],
        edit_config: impl FnOnce(&mut Value),
        edit_manifest: impl FnOnce(&mut Value),
    ) -> Image {
        let diff_ids: Vec<_> = layers.iter().map(|(_, tar)| digest(tar)).collect();
        let mut config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        edit_config(&mut config);
        Image::with_config(layers, config.to_string().into_bytes(), edit_manifest)
    }

    fn with_config(layers: &[(Vec<u8>, Vec<u8>)], config: Vec<u8>, edit_manifest: impl FnOnce(&mut Value)) -> Image {
        let named: Vec<_> = layers
            .iter()
            .map(|(bytes, _)| json!({"mediaType": LAYER, "digest": digest(bytes), "size": bytes.len()}))
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": named,
            "config": {"mediaType": CONFIG, "digest": digest(&config), "size": config.len()},
        });
        edit_manifest(&mut manifest);
        let mut content: Vec<_> = layers.iter().map(|(bytes, _)| (digest(bytes), bytes.clone())).collect();
        content.push((digest(&config), config));
        Image {
            manifest: manifest.to_string().into_bytes(),
            media_type: MANIFEST,
            content,
        }
    }

    fn raw(manifest: impl Into<Vec<u8>>, media_type: &'static str) -> Image {
        Image {
            manifest: manifest.into(),
            media_type,
            content: Vec::new(),
        }
    }

    /// Below one more index.
    fn indexed(mut self) -> Image {
        let entry =
            json!({"mediaType": self.media_type, "digest": digest(&self.manifest), "size": self.manifest.len()});
        self.content.push((digest(&self.manifest), self.manifest));
        self.manifest = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
            .to_string()
            .into_bytes();
        self.media_type = INDEX;
        self
    }
}

/// All documents, around a layer that is honest.
pub fn all() -> Vec<Document> {
    let layer = {
        let tar = vec![0; 1024];
        [(tar.clone(), tar)]
    };
    let mut documents = Vec::new();
    manifests(&mut documents, &layer);
    indexes(&mut documents, &layer);
    configs(&mut documents, &layer);
    documents
}

type Layers<'a> = &'a [(Vec<u8>, Vec<u8>)];

fn manifests(documents: &mut Vec<Document>, layer: Layers) {
    let mut add = |name, edit: &dyn Fn(&mut Value), expect| {
        let image = Image::edited(layer, |_| {}, edit);
        documents.push(Document { name, image, expect });
    };
    let set = |path: &'static str, value: Value| {
        move |json: &mut Value| match json.pointer_mut(path) {
            Some(place) => *place = value.clone(),
            None => panic!("no {path}"),
        }
    };
    let first = "/layers/0/digest";
    add(
        "a digest that climbs",
        &set(first, json!("sha256:../../../../canary/file")),
        Refused("64 lower-case hex"),
    );
    add(
        "a digest that is short",
        &set(first, json!("sha256:abc")),
        Refused("64 lower-case hex"),
    );
    add(
        "a digest in capitals",
        &set(first, json!(digest(b"").to_uppercase())),
        Refused("not a sha256 digest"),
    );
    add(
        "a digest of another algorithm",
        &set(first, json!(format!("sha512:{}", "a".repeat(128)))),
        Refused("not a sha256 digest"),
    );
    add(
        "a digest of md5",
        &set("/config/digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
        Refused("not a sha256 digest"),
    );
    add(
        "a digest of a megabyte",
        &set(first, json!("a".repeat(1 << 20))),
        Refused("not a sha256 digest"),
    );
    add(
        "a digest that is a number",
        &set(first, json!(1)),
        Refused("not JSON of its kind"),
    );
    add(
        "a digest of nobody's",
        &set(first, json!(digest(b"nobody's"))),
        Refused("not found"),
    );
    add(
        "a negative size",
        &set("/layers/0/size", json!(-1)),
        Refused("not JSON of its kind"),
    );
    add(
        "a size of 2^64",
        &set("/layers/0/size", json!(1.8446744073709552e19)),
        Refused("not JSON of its kind"),
    );
    add(
        "a size of 2^64 - 1",
        &set("/layers/0/size", json!(u64::MAX)),
        Refused("bytes"),
    );
    add(
        "a size that is less",
        &set("/layers/0/size", json!(10)),
        Refused("more than the 10 bytes"),
    );
    add(
        "a size that is more",
        &set("/layers/0/size", json!(1025)),
        Refused("bytes"),
    );
    add(
        "a size of the config's that is less",
        &set("/config/size", json!(1)),
        Refused("more than the 1 bytes"),
    );
    add(
        "a config of 8 GiB",
        &set("/config/size", json!(8_u64 << 30)),
        Refused("a config of"),
    );
    add(
        "a layer of any type",
        &set("/layers/0/mediaType", json!("application/octet-stream")),
        Refused("is not supported"),
    );
    add(
        "a layer of a type without end",
        &set("/layers/0/mediaType", json!("x".repeat(1 << 20))),
        Refused("is not supported"),
    );
    add(
        "a layer that is encrypted",
        &set(
            "/layers/0/mediaType",
            json!("application/vnd.oci.image.layer.v1.tar+encrypted"),
        ),
        Refused("is not supported"),
    );
    add(
        "a foreign layer",
        &set(
            "/layers/0/mediaType",
            json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        ),
        Refused("foreign layer"),
    );
    add(
        "a layer with addresses",
        &|json| json["layers"][0]["urls"] = json!(["http://169.254.169.254/latest/meta-data"]),
        Harmless(&[]),
    );
    add(
        "a layer less",
        &set("/layers", json!([])),
        Refused("0 layers but 1 diff ids"),
    );
    add(
        "the same layer twice",
        &|json| {
            let again = json["layers"][0].clone();
            json["layers"].as_array_mut().expect("layers").push(again);
        },
        Refused("2 layers but 1 diff ids"),
    );
    add(
        "layers without number",
        &|json| json["layers"] = json!(vec![json["layers"][0].clone(); 20_000]),
        Refused("more than 500 layers"),
    );
    add(
        "layers and manifests",
        &|json| json["manifests"] = json!([]),
        Refused("both layers and manifests"),
    );
    add(
        "an image that says it is an index",
        &set("/mediaType", json!(INDEX)),
        Refused("media type"),
    );
    add(
        "an image that says it is something else",
        &set("/mediaType", json!("text/html")),
        Refused("media type"),
    );
    add(
        "schema 1",
        &|json| *json = json!({"schemaVersion": 1, "fsLayers": [], "history": []}),
        Refused("schema 1"),
    );
    add(
        "a config that is no object",
        &set("/config", json!("x")),
        Refused("not JSON of its kind"),
    );
    let many = |layers: usize| {
        let all: Vec<_> = (0..layers).map(|_| layer[0].clone()).collect();
        Image::of(&all)
    };
    let mut raw = |name, image, expect| documents.push(Document { name, image, expect });
    raw("the same layer sixty times", many(60), Harmless(&[]));
    raw("no bytes", Image::raw("", MANIFEST), Refused("not JSON of its kind"));
    raw(
        "no JSON",
        Image::raw("<html>", MANIFEST),
        Refused("not JSON of its kind"),
    );
    raw(
        "JSON of another kind",
        Image::raw("[1]", MANIFEST),
        Refused("not JSON of its kind"),
    );
    raw("no object in it", Image::raw("{}", MANIFEST), Refused("media type"));
    raw(
        "nested without end",
        Image::raw("{\"x\":".repeat(100_000), MANIFEST),
        Refused("EOF while parsing"),
    );
    raw(
        "a number without end",
        Image::raw(format!("{{\"schemaVersion\":{}}}", "9".repeat(1 << 20)), MANIFEST),
        Refused("not JSON of its kind"),
    );
    raw(
        "text in the place of a number",
        Image::raw(format!("{{\"schemaVersion\":\"{}\"}}", "x".repeat(1 << 20)), MANIFEST),
        Refused("not JSON of its kind"),
    );
    raw(
        "twice the same key",
        Image::raw(r#"{"schemaVersion":2,"layers":[],"layers":[]}"#, MANIFEST),
        Refused("duplicate field"),
    );
    raw(
        "half of a pair",
        Image::raw(r#"{"schemaVersion":2,"mediaType":"\ud800"}"#, MANIFEST),
        Refused("not JSON of its kind"),
    );
    raw(
        "no text",
        Image::raw(&b"{\"mediaType\":\"\xff\"}"[..], MANIFEST),
        Refused("not JSON of its kind"),
    );
    raw("5 MiB", Image::raw(" ".repeat(5 << 20), MANIFEST), Refused("4 MiB"));
    let tiny = r#"{"digest":"","size":0},"#.repeat(170_000);
    raw(
        "descriptors without number",
        Image::raw(format!("{{\"manifests\":[{}]}}", tiny.trim_end_matches(',')), INDEX),
        Refused("not a sha256 digest"),
    );
    let mut as_index = Image::of(layer);
    as_index.media_type = INDEX;
    raw("an image that is served as an index", as_index, Refused("media type"));
    let mut untyped = Image::of(layer);
    untyped.media_type = "text/plain";
    raw("an image that is served as text", untyped, Harmless(&[]));
}

fn indexes(documents: &mut Vec<Document>, layer: Layers) {
    let mut add = |name, image, expect| documents.push(Document { name, image, expect });
    let nested = |depth: usize| (0..depth).fold(Image::of(layer), |image, _| image.indexed());
    add("an index in an index", nested(2), Harmless(&[]));
    add(
        "indexes without end",
        nested(40),
        Refused("an index in an index in an index"),
    );
    let circle = json!({"schemaVersion": 2, "manifests": [{"digest": digest(b"circle"), "size": 1}]}).to_string();
    let image = Image {
        content: vec![(digest(b"circle"), circle.clone().into_bytes())],
        ..Image::raw(circle, INDEX)
    };
    add("an index that names itself", image, Refused("the manifest has digest"));
    add(
        "an empty index",
        Image::raw(json!({"schemaVersion": 2, "manifests": []}).to_string(), INDEX),
        Refused("no image for platform"),
    );
    let other = json!({"digest": digest(b""), "size": 1, "platform": {"os": "plan9", "architecture": "mips"}});
    add(
        "an index of others",
        Image::raw(
            json!({"schemaVersion": 2, "manifests": vec![other; 20_000]}).to_string(),
            INDEX,
        ),
        Refused("no image for platform"),
    );
    let mut lying = Image::of(layer).indexed();
    lying.media_type = MANIFEST;
    add("an index that is served as an image", lying, Refused("media type"));
}

fn configs(documents: &mut Vec<Document>, layer: Layers) {
    let mut raw = |name, config: Vec<u8>, expect| {
        let image = Image::with_config(layer, config, |_| {});
        documents.push(Document { name, image, expect });
    };
    raw("config: no bytes", Vec::new(), Refused("not JSON of its kind"));
    raw(
        "config: nested without end",
        b"[".repeat(1 << 20),
        Refused("not JSON of its kind"),
    );
    raw(
        "config: nested in a field that nobody reads",
        format!("{{\"history\":{}", "[".repeat(1 << 20)).into_bytes(),
        Refused("EOF while parsing"),
    );
    raw("config: 9 MiB", vec![b' '; 9 << 20], Refused("a config of"));
    let twice = json!({"diff_ids": [digest(&layer[0].1)]});
    raw(
        "config: twice the same key",
        format!("{{\"rootfs\":{twice},\"rootfs\":{twice}}}").into_bytes(),
        Refused("duplicate field"),
    );
    let mut add = |name, edit: &dyn Fn(&mut Value), expect| {
        let image = Image::edited(layer, edit, |_| {});
        documents.push(Document { name, image, expect });
    };
    let run = |key: &'static str, value: Value| move |json: &mut Value| json["config"][key] = value.clone();
    const MUCH: Expect = Refused("more than an image may say");
    add(
        "config: a diff id less",
        &|json| json["rootfs"]["diff_ids"] = json!([]),
        Refused("1 layers but 0 diff ids"),
    );
    add(
        "config: diff ids without number",
        &|json| json["rootfs"]["diff_ids"] = json!(vec![digest(b""); 50_000]),
        Refused("1 layers but 50000 diff ids"),
    );
    add(
        "config: a diff id that climbs",
        &|json| json["rootfs"]["diff_ids"] = json!(["sha256:../../../canary"]),
        Refused("64 lower-case hex"),
    );
    add(
        "config: another diff id",
        &|json| json["rootfs"]["diff_ids"] = json!([digest(b"other")]),
        Refused("an uncompressed layer has digest"),
    );
    add(
        "config: no root",
        &|json| json["rootfs"] = json!(null),
        Refused("not JSON of its kind"),
    );
    add(
        "config: environment without number",
        &run("Env", json!(vec![""; 1_000_000])),
        MUCH,
    );
    add(
        "config: a variable of 7 MiB",
        &run("Env", json!(["x".repeat(7 << 20)])),
        MUCH,
    );
    add(
        "config: a variable of no name",
        &run("Env", json!(["=x", "", "a\u{0}b=c"])),
        Harmless(&[]),
    );
    add(
        "config: labels without number",
        &|json| {
            let labels: serde_json::Map<_, _> = (0..200_000).map(|n| (n.to_string(), json!(""))).collect();
            json["config"]["Labels"] = labels.into();
        },
        MUCH,
    );
    add(
        "config: volumes full of lists",
        &run("Volumes", json!({"/v": vec![json!([]); 1_000_000]})),
        Harmless(&[]),
    );
    add(
        "config: a volume that climbs",
        &run("Volumes", json!({"/../../canary": {}})),
        Harmless(&[]),
    );
    add(
        "config: a user of a megabyte",
        &run("User", json!("u".repeat(2 << 20))),
        MUCH,
    );
    add(
        "config: a user with a newline",
        &run("User", json!("root\n0:0")),
        Harmless(&[]),
    );
    add(
        "config: a working folder that climbs",
        &run("WorkingDir", json!("../../../../canary")),
        Harmless(&[]),
    );
    add(
        "config: a command without number",
        &run("Cmd", json!(vec!["x"; 1_000_000])),
        MUCH,
    );
    add(
        "config: a signal of none",
        &run("StopSignal", json!("SIGRTMIN+99999999999")),
        Harmless(&[]),
    );
    add(
        "config: a number in the place of text",
        &run("User", json!(0)),
        Refused("not JSON of its kind"),
    );
}
