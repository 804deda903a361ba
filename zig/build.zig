//! For those who like `zig build` and `zig build test`. The Lab itself calls `zig build-lib`, which starts faster;
//! see src/nif_lab/backends/zig.py.

const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{ .preferred_optimize_mode = .safe });
    const module = b.createModule(.{
        .root_source_file = b.path("src/lib.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
    });
    // Its functions use AVX2, and are called where the machine has it.
    var wide = target.query;
    if (target.result.cpu.arch == .x86_64) wide.cpu_model = .{ .explicit = &std.Target.x86.cpu.x86_64_v3 };
    module.addImport("blocks", b.createModule(.{
        .root_source_file = b.path("src/xxh3/blocks.zig"),
        .target = b.resolveTargetQuery(wide),
        .optimize = optimize,
    }));
    module.addCSourceFile(.{ .file = b.path("src/nif/guard.c") });

    const library = b.addLibrary(.{ .name = "nif_zig", .root_module = module, .linkage = .dynamic });
    b.installArtifact(library);

    const tests = b.addTest(.{ .root_module = module });
    b.step("test", "Run the tests").dependOn(&b.addRunArtifact(tests).step);
}
