"""
Failures on purpose, to see what a failure does.
"""
module Faults

using ..Nif

"""
`error_value(message)`: fail with that message, the ordinary way.
"""
@nif fault function error_value(message::String)::Nothing
    throw(NifError(:value, message))
end

"""
`panic(message)`: throw an exception that nobody expects.
"""
@nif fault function panic(message::String)::Nothing
    error(message)
end

"""
`out_of_bounds(index)`: element `index`, counted from 0, of the eight numbers 0 to 7.
"""
@nif fault function out_of_bounds(index::Int64)::Int64
    return collect(0:7)[index+1]
end

"""
`overflow(x)`: x + 1, checked.
"""
@nif fault function overflow(x::Int64)::Int64
    return Base.checked_add(x, 1)
end

"""
`divide(x, y)`: the truncated quotient, checked.
"""
@nif fault function divide(x::Int64, y::Int64)::Int64
    return x ÷ y
end

end
