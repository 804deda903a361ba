//! What Zig's safety checks call, for `pub const panic` of a root file.
//!
//! The texts are those of `std.debug.FullPanic`, which needs std.fmt for some of them.

const std = @import("std");
const panicked = @import("call.zig").panic;
const panickedAs = @import("call.zig").panicAs;

pub fn call(text: []const u8, _: ?usize) noreturn {
    @branchHint(.cold);
    panicked(.{text});
}

pub fn unwrapError(err: anyerror) noreturn {
    @branchHint(.cold);
    panicked(.{ "attempt to unwrap error: ", @errorName(err) });
}

pub fn outOfBounds(index: usize, len: usize) noreturn {
    @branchHint(.cold);
    panickedAs(.tainted_index, .{ "index out of bounds: index ", index, ", len ", len });
}

pub fn startGreaterThanEnd(start: usize, end: usize) noreturn {
    @branchHint(.cold);
    panicked(.{ "start index ", start, " is larger than end index ", end });
}

pub fn inactiveUnionField(active: anytype, accessed: @TypeOf(active)) noreturn {
    @branchHint(.cold);
    panicked(.{ "access of union field '", @tagName(accessed), "' while field '", @tagName(active), "' is active" });
}

pub fn sliceCastLenRemainder(src_len: usize) noreturn {
    @branchHint(.cold);
    panicked(.{ "slice length '", src_len, "' does not divide exactly into destination elements" });
}

pub fn unexpectedErrorCode(err: anyerror) noreturn {
    @branchHint(.cold);
    panicked(.{ "unexpected error code, found error.", @errorName(err) });
}

const others = std.debug.FullPanic(call);

pub const sentinelMismatch = others.sentinelMismatch;
pub const reachedUnreachable = others.reachedUnreachable;
pub const unwrapNull = others.unwrapNull;
pub const castToNull = others.castToNull;
pub const incorrectAlignment = others.incorrectAlignment;
pub const invalidErrorCode = others.invalidErrorCode;
pub const integerOutOfBounds = others.integerOutOfBounds;
pub const integerOverflow = others.integerOverflow;
pub const shlOverflow = others.shlOverflow;
pub const shrOverflow = others.shrOverflow;
pub const divideByZero = others.divideByZero;
pub const exactDivisionRemainder = others.exactDivisionRemainder;
pub const integerPartOutOfBounds = others.integerPartOutOfBounds;
pub const corruptSwitch = others.corruptSwitch;
pub const shiftRhsTooBig = others.shiftRhsTooBig;
pub const invalidEnumValue = others.invalidEnumValue;
pub const forLenMismatch = others.forLenMismatch;
pub const copyLenMismatch = others.copyLenMismatch;
pub const memcpyAlias = others.memcpyAlias;
pub const noreturnReturned = others.noreturnReturned;
pub const loadUninstantiableType = others.loadUninstantiableType;
