//! Reads ELF files with checked arithmetic only.

use super::Refused;

fn number(bytes: &[u8], at: u64, len: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let field = bytes.get(at..at.checked_add(len)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn range(bytes: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(at).ok()?..usize::try_from(at.checked_add(len)?).ok()?)
}

fn truncated(what: &str, size: usize) -> Refused {
    Refused::new("truncated", format!("it is truncated: {what} lies beyond its {size} bytes; copy it again"))
}

/// The bytes of a section of a shared object for this machine, all of which is in the file.
pub(super) fn section<'a>(bytes: &'a [u8], name: &[u8]) -> Result<&'a [u8], Refused> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err(Refused::new("not_elf", "it is not an ELF file; put only plugins here"));
    }
    let header =
        |at: u64, len: usize| number(bytes, at, len).ok_or_else(|| truncated("the ELF header", bytes.len()));
    if bytes.get(4..6) != Some(&[2, 1]) {
        return Err(Refused::new("wrong_cpu", "it is not a 64-bit little-endian file"));
    }
    let (machine, host) = (header(18, 2)?, if cfg!(target_arch = "aarch64") { 183 } else { 62 });
    if machine != host {
        let text = format!("it is built for another CPU (ELF machine {machine}, this one is {host})");
        return Err(Refused::new("wrong_cpu", text));
    }
    if header(16, 2)? != 3 {
        return Err(Refused::new("executable", "it is not a shared object; build a cdylib"));
    }
    segments(bytes, header(32, 8)?, header(56, 2)?)?;
    find(bytes, (header(40, 8)?, header(60, 2)?, header(62, 2)?), name)
}

fn segments(bytes: &[u8], at: u64, count: u64) -> Result<(), Refused> {
    let mut loads = 0;
    for index in 0..count {
        let cut = || truncated("a program header", bytes.len());
        let field = |offset: u64, len| {
            let at = at.checked_add(index * 56)?.checked_add(offset)?;
            number(bytes, at, len)
        };
        let kind = field(0, 4).ok_or_else(cut)?;
        let (offset, size) = (field(8, 8).ok_or_else(cut)?, field(32, 8).ok_or_else(cut)?);
        match kind {
            3 => return Err(Refused::new("executable", "it is an executable, not a plugin")),
            1 => {
                loads += 1;
                range(bytes, offset, size).ok_or_else(|| truncated("a segment", bytes.len()))?;
            }
            _ => {}
        }
    }
    if loads == 0 {
        return Err(Refused::new("not_elf", "it has nothing to load; build a cdylib"));
    }
    Ok(())
}

fn find<'a>(bytes: &'a [u8], (at, count, names): (u64, u64, u64), name: &[u8]) -> Result<&'a [u8], Refused> {
    let cut = || truncated("the section table", bytes.len());
    count.checked_mul(64).and_then(|len| range(bytes, at, len)).ok_or_else(cut)?;
    let entry = |index: u64| {
        let at = at.checked_add(index.checked_mul(64)?)?;
        Some((
            number(bytes, at, 4)?,
            number(bytes, at + 4, 4)?,
            number(bytes, at + 24, 8)?,
            number(bytes, at + 32, 8)?,
        ))
    };
    let (_, _, names_at, names_len) = entry(names).ok_or_else(cut)?;
    let names = range(bytes, names_at, names_len).ok_or_else(cut)?;
    let mut found = None;
    for index in 0..count {
        let (name_at, kind, at, len) = entry(index).ok_or_else(cut)?;
        // Sections without bytes in the file (.bss) may point anywhere.
        let content = if kind == 8 { &[][..] } else { range(bytes, at, len).ok_or_else(cut)? };
        let rest = usize::try_from(name_at).ok().and_then(|at| names.get(at..)).unwrap_or(&[]);
        if rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)) {
            found = Some(content);
        }
    }
    let hint = "it holds no provider manifest; build it with export_provider!";
    found.ok_or_else(|| Refused::new("no_manifest", hint))
}
