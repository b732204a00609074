//! A pod's /etc/resolv.conf.

use crate::model::Dns;

/// The file's text: from the CRI's `DNSConfig`, or the `host`'s when that is empty.
pub fn resolv_conf(dns: &Dns, host: &str) -> String {
    if *dns == Dns::default() {
        return host.to_owned();
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}
