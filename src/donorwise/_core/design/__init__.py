"""A formula and the columns of obs: fixed and random parts, contrasts, the audit."""
