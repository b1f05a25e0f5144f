//! Kernels before 6.6 have no tcx: there the programs are filters of the interface's clsact qdisc.

use crate::sys::bpf::TcSide;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use std::io;

/// Always the same place, so that the next daemon finds it: before all others.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 3343);

/// Puts the program in, in the place of one that an earlier daemon left, without a gap.
pub(super) fn attach(program: &mut SchedClassifier, name: &str, side: TcSide) -> Result<(), ProgramError> {
    let way = way(side);
    let earlier =
        SchedClassifierLink::attached(name, way, PRIORITY, HANDLE, None).map_err(TcError::IoError)?;
    let link = match program.attach_to_link(earlier) {
        Ok(link) => link,
        Err(_) => {
            // It may be there already, of somebody else's.
            let _ = qdisc_add_clsact(name);
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(name, way, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping it would take the filter away.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

/// Takes it away; the qdisc stays, as others may use it.
pub(super) fn detach(name: &str, side: TcSide) -> io::Result<()> {
    use aya::programs::Link;
    let link = SchedClassifierLink::attached(name, way(side), PRIORITY, HANDLE, None)?;
    link.detach().map_err(io::Error::other)
}

fn way(side: TcSide) -> TcAttachType {
    match side {
        TcSide::In => TcAttachType::Ingress,
        TcSide::Out => TcAttachType::Egress,
    }
}
