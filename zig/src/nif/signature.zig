//! Signatures, at compile time: types from the function, names, dimensions and text from its documentation.
//!
//! Zig's reflection knows no parameter names, so they stand in the first line of the documentation, which is
//! the call: "dot(x[n], y[n])". The room's own source is searched for it. Without one, the names of the declaration are
//! taken, and each array that is read has lengths of its own: [n], [n2], [m3,n3]; an output has those of the first one with
//! as many axes.

const std = @import("std");
const mem = std.mem;
const abi = @import("abi.zig");
const arrays = @import("arrays.zig");
const results = @import("results.zig");

pub const Parameter = struct {
    name: [:0]const u8,
    form: Form,
    /// The name of each axis; those of `any` are "...".
    dimensions: []const []const u8,
    /// The type as errors spell it: "f64[n]".
    spelling: []const u8,
    mutable: bool,
    /// It may be None.
    optional: bool,
};

/// An integer's type.
pub const Int = struct { is_signed: bool, bits: u16 };

/// What the Zig type of a parameter asks for.
pub const Form = union(enum) {
    int: Int,
    float: u16,
    /// The bits of both parts.
    complex: u16,
    bool,
    str,
    bytes,
    /// A list of texts.
    texts,
    /// The names of an enum's values.
    names: []const []const u8,
    /// A function, as signatures spell it.
    callback: []const u8,
    vector: abi.DType,
    matrix: abi.DType,
    any,

    pub fn isArray(form: Form) bool {
        return switch (form) {
            .vector, .matrix, .any => true,
            .int, .float, .complex, .bool, .str, .bytes, .texts, .names, .callback => false,
        };
    }
};

pub const Signature = struct {
    name: [:0]const u8,
    parameters: []const Parameter,
    text: [:0]const u8,
    doc: [:0]const u8,
    /// Whether the function's first parameter is an allocator, which isn't the caller's.
    takes_allocator: bool,

    /// Whether a call needs memory of its own.
    pub fn needsMemory(comptime signature: Signature) bool {
        for (signature.parameters) |parameter| if (parameter.form == .texts) return true;
        return signature.takes_allocator;
    }

    pub fn parameterNames(comptime signature: Signature) []const []const u8 {
        var names: [signature.parameters.len][]const u8 = undefined;
        for (&names, signature.parameters) |*name, parameter| name.* = parameter.name;
        const final = names;
        return &final;
    }
};

/// Where a public function is declared.
fn declarationOf(comptime source: []const u8, comptime name: []const u8) ?usize {
    for (.{ "\npub fn ", "\npub inline fn ", "\npub noinline fn ", "\npub export fn " }) |head| {
        for (.{ name ++ "(", "@\"" ++ name ++ "\"(" }) |spelled| {
            if (mem.find(u8, source, head ++ spelled)) |place| return place;
        }
    }
    return null;
}

/// The signature of `functions.name`, documented in `source`.
pub fn of(comptime functions: type, comptime source: []const u8, comptime name: [:0]const u8) Signature {
    @setEvalBranchQuota(1_000_000);
    const info = @typeInfo(@TypeOf(@field(functions, name))).@"fn";
    const declaration = declarationOf(source, name) orelse
        @compileError(name ++ ": declare it at the margin, as `pub fn " ++ name ++ "(`");
    const takes_allocator = info.param_types.len > 0 and info.param_types[0] == mem.Allocator;
    const types = info.param_types[@intFromBool(takes_allocator)..];
    const written_doc = documentation(source, declaration);
    const call = if (startsWithCall(written_doc))
        parseCall(name, written_doc)
    else
        suggestedCall(name, source[declaration..], types, takes_allocator, written_doc);
    if (call.arguments.len != types.len) {
        @compileError(name ++ ": the call in its documentation has another number of arguments");
    }

    var parameters: []const Parameter = &.{};
    var text: []const u8 = name ++ "(";
    var position = declaration;
    for (call.arguments, types, 0..) |argument, maybe_type, index| {
        const T = maybe_type orelse @compileError(name ++ is_generic);
        const written, const dimensions = parseArgument(argument);
        position = mem.findPos(u8, source, position, written ++ ": ") orelse
            @compileError(name ++ ": has no parameter " ++ written);
        if (mem.endsWith(u8, source[0..position], "comptime ")) {
            @compileError(name ++ ": parameter '" ++ written ++ "' is comptime, and callers come at run time: leave `comptime` out, " ++
                "or make it a constant of the cell");
        }
        const parameter = parameterOf(name, written, dimensions, T);
        const separator = if (index == 0) "" else ", ";
        const mut = if (parameter.mutable) "mut " else "";
        text = text ++ separator ++ written ++ ": " ++ mut ++ parameter.spelling;
        parameters = parameters ++ [_]Parameter{parameter};
    }
    return .{
        .name = name,
        .parameters = parameters,
        .text = terminated(text ++ ") -> " ++ resultName(name, info.return_type orelse @compileError(name ++ is_generic))),
        .doc = terminated(call.doc),
        .takes_allocator = takes_allocator,
    };
}

const is_generic = ": a NIF can't be generic: write one function for each type, as `pub fn mean_f64(x: []const f64)`";

/// The comment lines right above `declaration`, without their slashes.
fn documentation(comptime source: []const u8, comptime declaration: usize) []const u8 {
    var text: []const u8 = "";
    var end = declaration;
    while (end > 0) {
        const start = if (mem.findScalarLast(u8, source[0..end], '\n')) |newline| newline + 1 else 0;
        const line = mem.cutPrefix(u8, source[start..end], "///") orelse break;
        text = mem.trim(u8, line, " ") ++ "\n" ++ text;
        end = start -| 1;
    }
    return text;
}

const DocumentedCall = struct { arguments: []const []const u8, doc: []const u8 };

/// Take "`dot(x[n], y[n])`: inner product." apart; the marks around the call are optional.
fn parseCall(comptime name: []const u8, comptime text: []const u8) DocumentedCall {
    const cure = name ++ ": the first line of its documentation must be the call, such as `" ++
        name ++ "(x[n])`, closed by a period or a colon";
    const marked = text.len > 0 and text[0] == '`';
    var rest = mem.cutPrefix(u8, text[@intFromBool(marked)..], name ++ "(") orelse @compileError(cure);

    var arguments: []const []const u8 = &.{};
    while (rest[0] != ')') {
        const length = argumentLength(rest) orelse @compileError(cure);
        arguments = arguments ++ [_][]const u8{mem.trim(u8, rest[0..length], " ")};
        rest = rest[length + @intFromBool(rest[length] == ',') ..];
    }
    rest = rest[1..];
    if (marked) rest = mem.cutPrefix(u8, rest, "`") orelse @compileError(cure);
    // A call that has its line for itself needs no period.
    const is_alone = mem.trim(u8, mem.sliceTo(rest, '\n'), " ").len == 0;
    if (!is_alone and rest[0] != '.' and rest[0] != ':') @compileError(cure);
    return .{ .arguments = arguments, .doc = mem.trim(u8, if (is_alone) rest else rest[1..], " \n") };
}

/// Whether a documentation begins with a name and a parenthesis.
fn startsWithCall(comptime text: []const u8) bool {
    for (mem.trimStart(u8, text, "` "), 0..) |character, index| switch (character) {
        'a'...'z', 'A'...'Z', '0'...'9', '_' => {},
        else => return character == '(' and index > 0,
    };
    return false;
}

/// The call of a function that documents none.
fn suggestedCall(
    comptime name: []const u8,
    comptime declaration: []const u8,
    comptime types: []const ?type,
    comptime takes_allocator: bool,
    comptime doc: []const u8,
) DocumentedCall {
    const start = mem.findScalar(u8, declaration, '(').? + 1;
    var words = mem.tokenizeAny(u8, declaration[start..], " \t\r\n");
    var arguments: []const []const u8 = &.{};
    var names: []const []const u8 = &.{};
    var scalars: []const []const u8 = &.{};
    if (takes_allocator) while (words.next()) |word| {
        if (word[word.len - 1] == ':') break;
    };
    var depth: usize = 0;
    for (types) |maybe_type| {
        const T = maybe_type orelse @compileError(name ++ is_generic);
        // A parameter's name ends in a colon; what stands between two of them is a type, with names of its own in parentheses.
        const word = while (words.next()) |word| {
            const is_outside = depth == 0;
            depth = depth + mem.count(u8, word, "(") - @min(depth + mem.count(u8, word, "("), mem.count(u8, word, ")"));
            if (is_outside and word[word.len - 1] == ':') break word[0 .. word.len - 1];
        } else @compileError(name ++ ": write a space after the colon of each parameter");
        names = names ++ [_][]const u8{word};
        if (plainAxes(T).len == 0) scalars = scalars ++ [_][]const u8{word};
    }
    var read: []const []const []const u8 = &.{};
    for (names, types) |word, T| {
        const plain = plainAxes(T.?);
        const is_output = isWritten(T.?) and (mem.eql(u8, word, "out") or mem.startsWith(u8, word, "out_"));
        const axes = suggestedAxes(plain, is_output, read, scalars);
        arguments = arguments ++ [_][]const u8{if (axes.len == 0) word else word ++ "[" ++ joined(axes) ++ "]"};
        if (axes.len > 0 and !is_output and formOf(Present(T.?), 1).? != .any) read = read ++ [_][]const []const u8{axes};
    }
    return .{ .arguments = arguments, .doc = mem.trim(u8, doc, " \n") };
}

/// The type that a parameter has when it is there.
pub fn Present(comptime T: type) type {
    return switch (@typeInfo(T)) {
        .optional => |optional| optional.child,
        else => T,
    };
}

/// The names of an array's axes. `read` has those of the arrays before it.
fn suggestedAxes(
    comptime plain: []const []const u8,
    comptime is_output: bool,
    comptime read: []const []const []const u8,
    comptime scalars: []const []const u8,
) []const []const u8 {
    const like = for (read) |axes| {
        if (axes.len == plain.len) break axes;
    } else plain;
    var all: []const []const u8 = &.{};
    for (plain, like) |axis, same| {
        // A parameter that is called n is the length of an output, and of nothing that is read.
        const own = if (is_output) (if (isAmong(scalars, axis)) axis else same) else ownAxis(axis, read.len + 1, scalars);
        all = all ++ [_][]const u8{own};
    }
    return all;
}

/// n, n2, n3; never the name of a scalar.
fn ownAxis(comptime axis: []const u8, comptime number: usize, comptime scalars: []const []const u8) []const u8 {
    if (mem.eql(u8, axis, "...")) return axis;
    var own: []const u8 = if (number == 1) axis else std.fmt.comptimePrint("{s}{d}", .{ axis, number });
    while (isAmong(scalars, own)) own = own ++ "_";
    return own;
}

fn isAmong(comptime names: []const []const u8, comptime sought: []const u8) bool {
    for (names) |name| if (mem.eql(u8, name, sought)) return true;
    return false;
}

fn joined(comptime names: []const []const u8) []const u8 {
    var text: []const u8 = "";
    for (names, 0..) |name, index| text = text ++ (if (index == 0) "" else ",") ++ name;
    return text;
}

/// Whether the function may write to an array of this type.
fn isWritten(comptime T: type) bool {
    return switch (@typeInfo(Present(T))) {
        .pointer => |pointer| !pointer.attrs.@"const",
        .@"struct" => @hasDecl(Present(T), "Element") and Present(T).mutable,
        else => false,
    };
}

fn plainAxes(comptime Given: type) []const []const u8 {
    const T = Present(Given);
    if (T == []const u8) return &.{};
    return switch (formOf(T, 1) orelse return &.{}) {
        .vector => &.{"n"},
        .matrix => &.{ "m", "n" },
        .any => &.{"..."},
        .int, .float, .complex, .bool, .str, .bytes, .texts, .names, .callback => &.{},
    };
}

/// Up to the comma or parenthesis that ends the first argument; commas also stand inside brackets.
fn argumentLength(comptime text: []const u8) ?usize {
    var bracketed = false;
    for (text, 0..) |character, index| switch (character) {
        '[' => bracketed = true,
        ']' => bracketed = false,
        ',', ')' => if (!bracketed) return index,
        '\n' => return null,
        else => {},
    };
    return null;
}

/// "a[m,n]" is named a and has the axes m and n.
fn parseArgument(comptime argument: []const u8) struct { [:0]const u8, []const []const u8 } {
    const name, const rest = mem.cutScalar(u8, argument, '[') orelse return .{ terminated(argument), &.{} };
    var dimensions: []const []const u8 = &.{};
    var axes = mem.splitScalar(u8, mem.trimEnd(u8, rest, "]"), ',');
    while (axes.next()) |axis| dimensions = dimensions ++ [_][]const u8{mem.trim(u8, axis, " ")};
    return .{ terminated(name), dimensions };
}

fn parameterOf(
    comptime function: []const u8,
    comptime name: [:0]const u8,
    comptime dimensions: []const []const u8,
    comptime Given: type,
) Parameter {
    const T = Present(Given);
    const form = formOf(T, dimensions.len) orelse @compileError(function ++ ": parameter '" ++ name ++ "': " ++
        @typeName(T) ++ " can't be the parameter of a NIF; it takes i8 to i64, u8 to u64, isize, usize, f32, f64, std.math.Complex(f64), bool, []const u8, nif.Bytes, []const T, []T, " ++
        "nif.Matrix(T), nif.MatrixMut(T), []const []const u8 (a list of texts), an enum (by its names), nif.AnyArray, nif.Callback(fn (f64) f64) " ++
        "and an optional of one of these");
    const rank: usize = switch (form) {
        .int, .float, .complex, .bool, .str, .bytes, .texts, .names, .callback => 0,
        .vector, .any => 1,
        .matrix => 2,
    };
    if (dimensions.len != rank) {
        @compileError(std.fmt.comptimePrint("{s}: parameter '{s}': {s} needs {d} dimensions", .{
            function, name, @typeName(T), rank,
        }));
    }
    return .{
        .name = name,
        .form = form,
        .dimensions = dimensions,
        .optional = T != Given,
        .spelling = switch (form) {
            .int => results.integerName(T).?,
            .float => |bits| if (bits == 32) "f32" else "f64",
            .complex => |bits| if (bits == 64) "c64" else "c128",
            .bool, .str, .bytes => @tagName(form),
            .texts => "str[_]",
            .names => "str",
            .callback => |spelling| spelling,
            .vector, .matrix => |dtype| arrays.elementName(dtype).? ++ "[" ++ joined(dimensions) ++ "]",
            .any => "any[...]",
        } ++ if (T != Given) "?" else "",
        .mutable = form.isArray() and isWritten(T),
    };
}

/// Null for a type that can't cross.
fn formOf(comptime T: type, comptime rank: usize) ?Form {
    switch (T) {
        bool => return .bool,
        arrays.Bytes => return .bytes,
        arrays.AnyArray => return .any,
        // Text and u8 arrays have one Zig type; an array has a dimension.
        []const u8 => if (rank == 0) return .str,
        []const []const u8 => return .texts,
        else => {},
    }
    return switch (@typeInfo(T)) {
        .int => |int| if (results.integerName(T) != null)
            .{ .int = .{ .is_signed = int.signedness == .signed, .bits = int.bits } }
        else
            null,
        .float => |float| if (float.bits == 32 or float.bits == 64) .{ .float = float.bits } else null,
        .@"enum" => |names| .{ .names = names.field_names },
        .pointer => |pointer| if (T == []const bool or T == []bool)
            .{ .vector = arrays.elementType(arrays.Bool) }
        else if (pointer.size == .slice and arrays.isElement(pointer.child))
            .{ .vector = arrays.elementType(pointer.child) }
        else
            null,
        .@"struct" => if (arrays.complexBits(T)) |bits|
            .{ .complex = bits }
        else if (@hasDecl(T, "Element"))
            .{ .matrix = arrays.elementType(T.Element) }
        else if (@hasDecl(T, "Called"))
            if (T.spelling) |spelling| .{ .callback = spelling } else null
        else
            null,
        else => null,
    };
}

fn resultName(comptime function: []const u8, comptime Result: type) []const u8 {
    const Payload = switch (@typeInfo(Result)) {
        .error_union => |result| result.payload,
        else => Result,
    };
    return results.spell(Payload) orelse
        @compileError(function ++ ": " ++ @typeName(Payload) ++ " can't be the result of a NIF; it gives " ++ results.takes);
}

fn terminated(comptime text: []const u8) [:0]const u8 {
    const final = text[0..text.len].* ++ "".*;
    return &final;
}

const example = struct {
    pub fn scale(a: arrays.Matrix(f32), factor: f64, label: []const u8, out: arrays.MatrixMut(i64)) error{Odd}!u64 {
        _ = .{ a, factor, label, out };
        return 0;
    }
};

const example_source =
    \\/// Not this one.
    \\
    \\/// `scale(a[m, n], factor, label, out[n,m])`: first line,
    \\/// second line.
    \\pub fn scale(a: nif.Matrix(f32), factor: f64, label: []const u8, out: nif.MatrixMut(i64)) !u64 {
;

test "a signature is made of types and documentation" {
    const signature = comptime of(example, example_source, "scale");
    try std.testing.expectEqualStrings(
        "scale(a: f32[m,n], factor: f64, label: str, out: mut i64[n,m]) -> u64",
        signature.text,
    );
    try std.testing.expectEqualStrings("first line,\nsecond line.", signature.doc);
    try std.testing.expectEqualStrings("label", signature.parameters[2].name);
}

test "without a documented call the declaration suggests one" {
    const source =
        \\
        \\/// Scales it.
        \\pub fn scale(a: nif.Matrix(f32), factor: f64, label: []const u8, out: nif.MatrixMut(i64)) !u64 {
    ;
    const signature = comptime of(example, source, "scale");
    try std.testing.expectEqualStrings(
        "scale(a: f32[m,n], factor: f64, label: str, out: mut i64[m,n]) -> u64",
        signature.text,
    );
    try std.testing.expectEqualStrings("Scales it.", signature.doc);
}
