"""Logarithms of two-sided p-values of t with mpmath (1.3.0), to 20 digits: python 08_student_t.py, in this folder."""

import json

T = [0, 1e-12, 1e-6, 0.01, 0.3, 0.67, 1, 1.5, 2, 2.7, 3.3, 3.7, 4.5, 5.5, 7, 10, 17, 37, 40, 100, 300, 1000, 1e4]
DF = [1, 1.5, 2, 3, 4.7, 8, 15, 19.9, 20, 33, 100, 314.159, 1e3, 1e4, 1e5, 1e6, "inf"]


def log_p(t, df):
    """log I_x(df/2, 1/2): one minus a series in the middle, else the continued fraction 8.17.22 of the DLMF."""
    t, b = mp.mpf(t), mp.mpf(1) / 2
    if t == 0 or df == "inf":
        return mp.log(mp.erfc(t / mp.sqrt(2)))
    df = mp.mpf(df)
    a, x, y = df / 2, df / (df + t * t), t * t / (df + t * t)
    front = a * mp.log(x) + b * mp.log(y) - mp.loggamma(a) - mp.loggamma(b) + mp.loggamma(a + b)
    if a * y < 40 and x > 0.5:
        return mp.log(1 - mp.exp(front) / b * mp.hyp2f1(a + b, 1, b + 1, y))
    tail = mp.mpf(0)
    for k in range(3000, 0, -1):
        m = k // 2
        if k % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        tail = d / (1 + tail)
    return front - mp.log(a) - mp.log(1 + tail)


if __name__ == "__main__":
    import mpmath as mp

    mp.mp.dps = 40
    rows = ",\n  ".join(json.dumps([float(mp.nstr(log_p(t, df), 20)) for t in T]) for df in DF)
    with open("../gene_level/student_t.json", "w", encoding="utf-8") as file:
        file.write(f'{{\n "t": {json.dumps(T)},\n "df": {json.dumps(DF)},\n "log_p": [\n  {rows}\n ]\n}}\n')
