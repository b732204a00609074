//! HTML and SVG elements as values: what is built of them is well-formed, whatever the texts are.

use std::fmt::{self, Display, Write};

pub struct Element {
    name: &'static str,
    /// With their values, escaped.
    attributes: String,
    content: String,
}

pub fn element(name: &'static str) -> Element {
    Element {
        name,
        attributes: String::new(),
        content: String::new(),
    }
}

impl Element {
    pub fn with(mut self, attribute: &str, value: impl Display) -> Self {
        let value = escape(&value.to_string());
        write!(self.attributes, " {attribute}=\"{value}\"").expect("writing to memory");
        self
    }

    pub fn class(self, class: &str) -> Self {
        self.with("class", class)
    }

    /// Coordinates, to a tenth of a unit.
    pub fn at<const N: usize>(self, places: [(&str, f64); N]) -> Self {
        let write = |element: Self, (name, value): (&str, f64)| element.with(name, (value * 10.0).round() / 10.0);
        places.into_iter().fold(self, write)
    }

    pub fn text(mut self, text: &str) -> Self {
        self.content += &escape(text);
        self
    }

    pub fn add(mut self, child: Element) -> Self {
        write!(self.content, "{child}").expect("writing to memory");
        self
    }

    pub fn add_all(self, children: impl IntoIterator<Item = Element>) -> Self {
        children.into_iter().fold(self, Element::add)
    }

    /// A style sheet or data, which have a syntax of their own.
    ///
    /// It must contain neither `<` nor `&`.
    pub fn verbatim(mut self, text: &str) -> Self {
        self.content += text;
        self
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            attributes,
            content,
        } = self;
        match VOID.contains(name) {
            true => write!(f, "<{name}{attributes}/>"),
            // Also when empty: HTML does not know `<p/>`.
            false => write!(f, "<{name}{attributes}>{content}</{name}>"),
        }
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            other => escaped.push(other),
        }
    }
    escaped
}

/// Those used here that have no end tag: HTML, "Void elements".
const VOID: [&str; 2] = ["meta", "br"];

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn texts_and_attributes_cannot_leave_their_place() {
        let made = element("p")
            .with("title", "\"<&>\"")
            .text("a < b & c")
            .add(element("br"));
        let text = "<p title=\"&quot;&lt;&amp;&gt;&quot;\">a &lt; b &amp; c<br/></p>";
        assert_eq!(made.to_string(), text);
        assert_eq!(
            element("b").at([("x", 0.25), ("y", 10.0)]).to_string(),
            "<b x=\"0.3\" y=\"10\"></b>"
        );
    }
}
