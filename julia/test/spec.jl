describe(text; names = (:x,), types = Tuple{Vec{Float64}}, result = Float64) =
    Nif.describe(:f, text, names, types, result, UInt32(0))

@testset "signatures come from types and docstrings" begin
    @test describe("`f(x[n])`: what it does.\n").signature == "f(x: f64[n]) -> f64"
    @test describe("f(x[n]). What it does.\n\nMore.").doc == "What it does.\n\nMore."
    types = Tuple{Mat{Int32},Int64,AnyArray,String,Bytes,Bool,MutMat{ComplexF32}}
    every = describe("f(a[m, n], n, b[...], s, d, t, out[n,m]): x"; names = (:a, :n, :b, :s, :d, :t, :out), types, result = Nothing)
    @test every.signature == "f(a: i32[m,n], n: i64, b: any[...], s: str, d: bytes, t: bool, out: mut c64[n,m]) -> None"
    @test describe("f(): x"; names = (), types = Tuple{}, result = UInt64).signature == "f() -> u64"
    @test describe("f(): x"; names = (), types = Tuple{}, result = Block).signature == "f() -> any[...]"
end

@testset "what doesn't fit is refused where it is written" begin
    refused(text; options...) =
        try
            describe(text; options...)
        catch caught
            caught.msg
        end
    @test occursin("first line must be the call", refused("f(x[n"))
    @test occursin("first line must be the call", refused("g(x[n]): another name"))
    @test occursin("the docstring names y, the function x", refused("f(y[n]): x"))
    @test occursin("x has 1 dimensions by its type, [m,n] by the docstring", refused("f(x[m,n]): x"))
    @test occursin("takes any shape: write x[...]", refused("f(x[n]): x"; types = Tuple{AnyArray}))
    @test occursin("can't be the parameter of a NIF: Char", refused("f(x): x"; types = Tuple{Char}))
    @test occursin("can't be the result of a NIF: Char", refused("f(x[n]): x"; result = Char))
    @test occursin("outputs", refused("f(out[n], x[n]): x"; names = (:out, :x), types = Tuple{MutVec{Float64},Vec{Float64}}))
end
