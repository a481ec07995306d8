"""Published derivations of the GRU's backward pass as tables of equations, and an audit that checks
each equation.
"""
