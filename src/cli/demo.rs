//! `inro demo`: placeholder until assembled.
pub fn run(_: Option<&str>) -> anyhow::Result<()> {
    anyhow::bail!("not assembled")
}
