//! Numbers of arrays on devices, and of kernels, that a function uses: the host says where they lead.

use nif::abi::error_kind;
use nif_gpu::buffers::Ask;
use nif_gpu::{Error, Result};

use super::{ErrorRecord, SERVING, Server};
use crate::channel::{ReplyHead, reply};
use crate::output;

/// How this process learns of numbers.
pub const ASK: Ask = Ask { array, kernel };

fn array(number: u64) -> Result<()> {
    ask(number, 0)
}

fn kernel(number: u64) -> Result<()> {
    ask(number, 1)
}

fn ask(number: u64, what: i32) -> Result<()> {
    // SAFETY: it points to the server that makes the running call, and is null on every other thread.
    let server = unsafe { SERVING.get().as_mut() }.ok_or(Error::Unknown)?;
    server.ask(number, what)
}

impl Server {
    fn ask(&mut self, number: u64, what: i32) -> Result<()> {
        let head = ReplyHead {
            argument: what,
            value: number,
            printed: u32::from(output::flush()),
            ..ReplyHead::asking(reply::DEVICE)
        };
        // SAFETY: the reply is ours until the bell rings.
        unsafe { (*self.channel.reply()).head = head };
        self.answer();
        self.wait();
        // SAFETY: the host has answered.
        let mail = unsafe { (*self.channel.request()).mail };
        self.read_mail(mail).map_err(|error| Error::Told {
            code: nif_gpu::error::codes::UNAVAILABLE,
            text: format!("the host's answer can't be read: {error}"),
        })?;
        self.devices.is_here()
    }

    /// Wait for what the call began on devices: its status, with what failed there. A process whose device fails from now on says so.
    pub(super) fn settle(&mut self, status: i32, error: &mut ErrorRecord) -> i32 {
        let Some((failed, is_lost)) = self.devices.settle() else { return status };
        if status == 0 || error.kind != error_kind::GPU_ERROR {
            *error =
                ErrorRecord { kind: error_kind::GPU_ERROR, argument: -1, message: failed.to_string().into_bytes() };
        }
        if is_lost {
            error.kind |= error_kind::TAINTED;
        }
        if status == 0 { -1 } else { status }
    }
}
