//! For those who like `zig build` and `zig build test`. The Lab itself calls `zig build-lib`, which starts faster;
//! see src/nif_lab/backends/zig.py.

const std = @import("std");

pub fn build(b: *std.Build) void {
    const module = b.createModule(.{
        .root_source_file = b.path("src/lib.zig"),
        .target = b.standardTargetOptions(.{}),
        .optimize = b.standardOptimizeOption(.{ .preferred_optimize_mode = .safe }),
        .link_libc = true,
    });
    module.addCSourceFile(.{ .file = b.path("src/nif/guard.c") });

    const library = b.addLibrary(.{ .name = "nif_zig", .root_module = module, .linkage = .dynamic });
    b.installArtifact(library);

    const tests = b.addTest(.{ .root_module = module });
    b.step("test", "Run the tests").dependOn(&b.addRunArtifact(tests).step);
}
