"`trues(x[n])`: how many are true."
@nif pure function trues(x::Vec{Bool})::Int64
    return count(x)
end

"`trues_of(x[m,n])`: how many are true."
@nif pure function trues_of(x::Mat{Bool})::Int64
    return sum(x)
end

"`pick(x[n])`: the sum of what each chooses in a table of two."
@nif pure function pick(x::Vec{Bool})::Int64
    return isempty(x) ? 0 : sum(it ? 20 : 10 for it in x)
end

"`opposite(x[n], out[n])`: not x."
@nif idempotent function opposite(x::Vec{Bool}, out::MutVec{Bool})::Nothing
    out .= .!x
    return
end
