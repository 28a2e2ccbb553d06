// Kernels of the plan `compiled` on a CPU: convolution, and batch norm with ReLU and 2x2 max pooling,
// with a task axis and derivatives, on one core.
//
// Images are (tasks, n, height, width, channels), kernels (tasks, out, k, k, in), all contiguous.
// The formulas are documented in convolution.py and normalization.py, which call the functions at
// the end of this file through native.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

using Size = std::int64_t;

struct Shape {
    Size tasks, n, height, width, in, out, k, stride;
    Size rows() const { return (height + stride - 1) / stride; }
    Size columns() const { return (width + stride - 1) / stride; }
    Size kernel() const { return out * k * k * in; }
};

struct Norm {
    Size tasks, n, height, width, channels;
    Size pool;  // whether 2x2 max pooling follows
    Size high() const { return pool ? height / 2 : height; }
    Size wide() const { return pool ? width / 2 : width; }
    Size rows() const { return n * height * width; }
    Size results() const { return n * high() * wide(); }
    // Rows that are summed in T: few enough for its precision and for the L1 cache.
    Size at_once() const { return std::clamp<Size>((1 << 13) / channels, 1, 128); }
};

namespace {

// Memory aligned to cache lines: loading a vector that crosses two lines takes twice as long.
template <typename T>
struct Aligned {
    using value_type = T;
    Aligned() = default;
    template <typename U>
    Aligned(const Aligned<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
    template <typename U>
    bool operator==(const Aligned<U>&) const { return true; }
    template <typename U>
    bool operator!=(const Aligned<U>&) const { return false; }
};

template <typename T>
using Buffer = std::vector<T, Aligned<T>>;

// ---- Matrix products in register tiles of ROWS[v] rows of v vectors (at most WIDE).

#if defined(__AVX512F__)
constexpr int BYTES = 64, WIDE = 4;
constexpr std::size_t ROWS[] = {0, 12, 8, 8, 6};
#elif defined(__AVX__)
constexpr int BYTES = 32, WIDE = 2;
constexpr std::size_t ROWS[] = {0, 8, 6};
#else
constexpr int BYTES = 16, WIDE = 2;
constexpr std::size_t ROWS[] = {0, 8, 6};
#endif

template <typename T, int B>
struct Vector {
    typedef T Type __attribute__((vector_size(B), aligned(alignof(T)), may_alias));
};

// Terms of a sum: a[at + l * a_step] * b[l * b_step + column] for l = 0 ... count - 1.
template <typename T>
struct Terms {
    Size at;
    const T* b;
    Size count;
};

// Number of terms summed at a time, so that their rows of b stay in the L1 cache.
constexpr Size AT_ONCE = 128;

template <typename T>
class Product {
  public:
    // adjacent: whether the `a` of consecutive rows are adjacent in memory.
    Product(Size a_step, Size b_step, bool adjacent) : a_step(a_step), b_step(b_step), adjacent(adjacent) {}

    // A row of the result: the base of `at` in its terms, and its destination.
    void row(const T* a, T* c) {
        as.push_back(a);
        cs.push_back(c);
    }

    void terms(Size at, const T* b, Size count) {
        for (Size start = 0; start < count; start += AT_ONCE)
            all.push_back({at + start * a_step, b + start * b_step, std::min(AT_ONCE, count - start)});
    }

    // Assigns (or adds) the sum of all terms to c[column] for all rows, then clears rows and terms.
    void compute(Size columns, bool add) {
        for (std::size_t part = 0; part < all.size();) {
            some.clear();
            for (Size count = 0; part < all.size() && (some.empty() || count + all[part].count <= AT_ONCE); ++part) {
                some.push_back(all[part]);
                count += all[part].count;
            }
            for (Size column = 0; column < columns;) column += panel(column, columns - column, add);
            add = true;
        }
        as.clear(), cs.clear(), all.clear();
    }

  private:
    const Size a_step, b_step;
    const bool adjacent;
    std::vector<const T*> as;
    std::vector<T*> cs;
    std::vector<Terms<T>> all, some;

    template <int B>
    static constexpr Size length = B / sizeof(T);

    // Computes some of the remaining columns and returns their number.
    Size panel(Size column, Size left, bool add) {
        if constexpr (WIDE == 4) {
            if (left >= 4 * length<BYTES>) return tiles<BYTES, 4>(column, add);
            if (left >= 3 * length<BYTES>) return tiles<BYTES, 3>(column, add);
        }
        if (left >= 2 * length<BYTES>) return tiles<BYTES, 2>(column, add);
        if (left >= length<BYTES>) return tiles<BYTES, 1>(column, add);
        if constexpr (BYTES > 32)
            if (left >= length<32>) return tiles<32, 1>(column, add);
        if constexpr (BYTES > 16)
            if (left >= length<16>) return tiles<16, 1>(column, add);
        return tiles<sizeof(T), 1>(column, add);
    }

    template <int B, int V>
    Size tiles(Size column, bool add) {
        constexpr std::size_t M = ROWS[V];
        std::size_t start = 0;
        if (adjacent)
            for (; start + M <= as.size(); start += M) tile<B, V, true>(start, M, column, add);
        for (; start < as.size(); start += M) tile<B, V, false>(start, std::min(M, as.size() - start), column, add);
        return V * length<B>;
    }

    // Rows beyond the last one repeat it and are discarded.
    template <int B, int V, bool ADJACENT>
    void tile(std::size_t start, std::size_t rows, Size column, bool add) {
        using Type = typename Vector<T, B>::Type;
        constexpr std::size_t M = ROWS[V];
        Type sum[M][V];
#pragma GCC unroll 16
        for (std::size_t i = 0; i < M; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[i][v] = Type{};
        for (const Terms<T>& terms : some) {
            const T *b = terms.b + column, *a[ADJACENT ? 1 : M];
            a[0] = as[start] + terms.at;
            if constexpr (!ADJACENT)
#pragma GCC unroll 16
                for (std::size_t i = 1; i < M; ++i) a[i] = as[start + std::min(i, rows - 1)] + terms.at;
            const Size a_step = this->a_step, b_step = this->b_step;
            for (Size l = 0, at = 0; l < terms.count; ++l, at += a_step, b += b_step) {
                Type row[V];
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) row[v] = *reinterpret_cast<const Type*>(b + v * length<B>);
#pragma GCC unroll 16
                for (std::size_t i = 0; i < M; ++i) {
                    const T factor = ADJACENT ? a[0][at + Size(i)] : a[i][at];
#pragma GCC unroll 4
                    for (int v = 0; v < V; ++v) sum[i][v] += factor * row[v];
                }
            }
        }
#pragma GCC unroll 16
        for (std::size_t i = 0; i < M; ++i) {
            if (i >= rows) break;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                Type* to = reinterpret_cast<Type*>(cs[start + i] + column + v * length<B>);
                *to = add ? *to + sum[i][v] : sum[i][v];
            }
        }
    }
};

// ---- Convolution: 'same' padding, an odd kernel.

// Images with zero padding, a few at a time, so that they stay in the L2 cache.
template <typename T>
class Padded {
  public:
    Padded(Size n, Size height, Size width, Size channels, Size before, Size padded_height, Size padded_width)
        : height(padded_height), width(padded_width), channels(channels), inner_height(height), inner_width(width), before(before),
          at_once(std::clamp<Size>((Size(1) << 18) / Size(sizeof(T)) / size(), 1, n)), data(static_cast<std::size_t>(at_once * size())) {}

    void fill(const T* images, Size count) {
        for (Size i = 0; i < count * inner_height; ++i)
            std::copy_n(images + i * inner_width * channels, inner_width * channels,
                        data.data() + ((i / inner_height * height + before + i % inner_height) * width + before) * channels);
    }

    const T* at(Size image, Size row, Size column) const { return data.data() + ((image * height + row) * width + column) * channels; }
    Size offset(Size row, Size column) const { return (row * width + column) * channels; }

    const Size height, width, channels;

  private:
    Size size() const { return height * width * channels; }
    const Size inner_height, inner_width, before;

  public:
    const Size at_once;

  private:
    Buffer<T> data;
};

// The padding of a forward convolution.
template <typename T>
Padded<T> windows(const Shape& s) {
    const Size around = 2 * (s.k / 2);
    return Padded<T>(s.n, s.height, s.width, s.in, s.k / 2, s.height + around, s.width + around);
}

// Transposes (rows, columns) -> (columns, rows) in blocks that stay in the L1 cache.
template <typename T>
void transpose(const T* from, Size rows, Size columns, T* to) {
    constexpr Size side = 16;
    for (Size i = 0; i < rows; i += side)
        for (Size j = 0; j < columns; j += side)
            for (Size b = j; b < std::min(j + side, columns); ++b)
                for (Size a = i; a < std::min(i + side, rows); ++a) to[b * rows + a] = from[a * columns + b];
}

// y = x * w
template <typename T>
void convolve(const T* x, const T* w, T* y, const Shape& s) {
    const Size rows = s.rows(), columns = s.columns();
    Padded<T> padded = windows<T>(s);
    Buffer<T> turned(static_cast<std::size_t>(s.kernel()));  // (k, k, in, out)
    Product<T> product(1, s.out, false);
    for (Size task = 0; task < s.tasks; ++task) {
        transpose(w + task * s.kernel(), s.out, s.k * s.k * s.in, turned.data());
        for (Size first = 0; first < s.n; first += padded.at_once) {
            const Size count = std::min(padded.at_once, s.n - first), image = task * s.n + first;
            padded.fill(x + image * s.height * s.width * s.in, count);
            for (Size i = 0; i < s.k; ++i) product.terms(padded.offset(i, 0), turned.data() + i * s.k * s.in * s.out, s.k * s.in);
            T* to = y + image * rows * columns * s.out;
            for (Size p = 0; p < count; ++p)
                for (Size r = 0; r < rows; ++r)
                    for (Size c = 0; c < columns; ++c, to += s.out) product.row(padded.at(p, r * s.stride, c * s.stride), to);
            product.compute(s.out, false);
        }
    }
}

// The gradient of (x * w, g) with respect to x. Positions of x that are a stride apart use the same
// elements of the kernel.
template <typename T>
void to_images(const T* g, const T* w, T* to, const Shape& s) {
    const Size pad = s.k / 2, before = (s.k - 1 - pad + s.stride - 1) / s.stride, after = (s.stride - 1 + pad) / s.stride;
    const Size rows = s.rows(), columns = s.columns();
    Padded<T> padded(s.n, rows, columns, s.out, before, before + rows + after, before + columns + after);
    Product<T> product(1, s.k * s.k * s.in, false);
    for (Size task = 0; task < s.tasks; ++task) {
        const T* kernel = w + task * s.kernel();
        for (Size first = 0; first < s.n; first += padded.at_once) {
            const Size count = std::min(padded.at_once, s.n - first), image = task * s.n + first;
            padded.fill(g + image * rows * columns * s.out, count);
            for (Size row = 0; row < std::min(s.stride, s.height); ++row)
                for (Size column = 0; column < std::min(s.stride, s.width); ++column) {
                    bool any = false;
                    for (Size i = (row + pad) % s.stride; i < s.k; i += s.stride)
                        for (Size j = (column + pad) % s.stride; j < s.k; j += s.stride, any = true)
                            product.terms(padded.offset(before + (row + pad - i) / s.stride, before + (column + pad - j) / s.stride),
                                          kernel + (i * s.k + j) * s.in, s.out);
                    for (Size p = 0; p < count; ++p)
                        for (Size r = 0; row + r * s.stride < s.height; ++r)
                            for (Size c = 0; column + c * s.stride < s.width; ++c) {
                                T* place = to + (((image + p) * s.height + row + r * s.stride) * s.width + column + c * s.stride) * s.in;
                                product.row(padded.at(p, r, c), place);
                                if (!any) std::fill_n(place, s.in, T(0));
                            }
                    product.compute(s.in, false);
                }
        }
    }
}

// The gradient of (x * w, g) with respect to w.
template <typename T>
void to_kernels(const T* g, const T* x, T* to, const Shape& s) {
    const Size rows = s.rows(), columns = s.columns(), places = s.k * s.k;
    const bool few = s.in * Size(sizeof(T)) < BYTES;  // then the channels of g are adjacent in the result
    Padded<T> padded = windows<T>(s);
    Buffer<T> turned(few ? static_cast<std::size_t>(s.kernel()) : 0);
    Product<T> product(few ? s.stride * s.in : s.out, few ? s.out : s.stride * s.in, !few);
    for (Size task = 0; task < s.tasks; ++task) {
        T* kernel = to + task * s.kernel();
        for (Size first = 0; first < s.n; first += padded.at_once) {
            const Size count = std::min(padded.at_once, s.n - first);
            const T* from = g + (task * s.n + first) * rows * columns * s.out;
            padded.fill(x + (task * s.n + first) * s.height * s.width * s.in, count);
            if (few) {
                for (Size line = 0; line < count * rows; ++line)
                    product.terms(padded.at(line / rows, line % rows * s.stride, 0) - padded.at(0, 0, 0), from + line * columns * s.out, columns);
                for (Size e = 0; e < places * s.in; ++e)
                    product.row(padded.at(0, e / s.in / s.k, e / s.in % s.k) + e % s.in, turned.data() + e * s.out);
                product.compute(s.out, first > 0);
                continue;
            }
            for (Size e = 0; e < places; ++e) {
                for (Size line = 0; line < count * rows; ++line)
                    product.terms(line * columns * s.out, padded.at(line / rows, line % rows * s.stride + e / s.k, e % s.k), columns);
                for (Size c = 0; c < s.out; ++c) product.row(from + c, kernel + (c * places + e) * s.in);
                product.compute(s.in, first > 0);
            }
        }
        if (few) transpose(turned.data(), places * s.in, s.out, kernel);
    }
}

// ---- Batch norm, ReLU and max pooling. x is (tasks, rows, channels); statistics, scale and shift are
// (tasks, channels).

// Sums per channel over rows: blocks of rows in T, the sum of blocks in double.
template <typename T>
class Sums {
  public:
    explicit Sums(Size channels) : some(static_cast<std::size_t>(channels)), all(static_cast<std::size_t>(channels)) {}
    T* part() { return some.data(); }
    void join() {
        for (std::size_t c = 0; c < all.size(); ++c) all[c] += some[c], some[c] = 0;
    }
    void clear() { std::fill(all.begin(), all.end(), 0.0); }
    double operator[](Size c) const { return all[static_cast<std::size_t>(c)]; }

  private:
    std::vector<T> some;
    std::vector<double> all;
};

// Loops over channels are separate functions without branches and with restricted pointers, which
// the compiler vectorizes.
#define APART __restrict__

template <typename T>
void add(const T* APART x, T* APART sum, Size channels) {
    for (Size i = 0; i < channels; ++i) sum[i] += x[i];
}

template <typename T>
void add_squares(const T* APART x, const T* APART mean, T* APART sum, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T away = x[i] - mean[i];
        sum[i] += away * away;
    }
}

// Mean and biased variance of (rows, channels), computed per block and combined by the formula of
// Chan, Golub, LeVeque (1979).
template <typename T>
void moments(const T* x, const Norm& s, std::vector<double>& mean, std::vector<double>& variance) {
    std::vector<T> sum(mean.size()), squares(mean.size());
    std::fill(mean.begin(), mean.end(), 0.0);
    std::fill(variance.begin(), variance.end(), 0.0);
    const Size channels = s.channels;
    for (Size first = 0; first < s.rows(); first += s.at_once()) {
        const Size count = std::min(s.at_once(), s.rows() - first);
        const T* block = x + first * channels;
        T *a = sum.data(), *b = squares.data();
        std::fill(sum.begin(), sum.end(), T(0));
        std::fill(squares.begin(), squares.end(), T(0));
        for (Size i = 0; i < count; ++i) add(block + i * channels, a, channels);
        for (Size c = 0; c < channels; ++c) a[c] /= T(count);
        for (Size i = 0; i < count; ++i) add_squares(block + i * channels, a, b, channels);
        for (std::size_t c = 0; c < mean.size(); ++c) {
            const double away = a[c] - mean[c], share = double(count) / double(first + count);
            mean[c] += away * share;
            variance[c] += b[c] + away * away * double(first) * share;
        }
    }
    for (double& v : variance) v /= double(s.rows());
}

// Calls visit(result, place) for each result, with the position of the first pixel of its square.
template <typename Visit>
void each_square(const Norm& s, Visit visit) {
    Size result = 0;
    for (Size image = 0; image < s.n; ++image)
        for (Size row = 0; row < s.high(); ++row)
            for (Size column = 0; column < s.wide(); ++column) visit(result++, (image * s.height + 2 * row) * s.width + 2 * column);
}

// The value that is largest after the affine map (turn: the sign of its scale), and its corner; the
// first one of equal values.
template <typename T>
void largest(const T* APART a, const T* APART b, const T* APART c, const T* APART d, const T* APART turn, T* APART picked,
             std::uint8_t* APART where, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T sign = turn[i], values[] = {a[i], b[i], c[i], d[i]};
        const bool second = values[1] * sign > values[0] * sign, fourth = values[3] * sign > values[2] * sign;
        const T upper = second ? values[1] : values[0], lower = fourth ? values[3] : values[2];
        const bool below = lower * sign > upper * sign;
        picked[i] = below ? lower : upper;
        where[i] = static_cast<std::uint8_t>(below ? 2 + fourth : 0 + second);
    }
}

template <typename T>
void affine_relu(const T* APART z, const T* APART mean, const T* APART factor, const T* APART shift, T* APART y, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T value = (z[i] - mean[i]) * factor[i] + shift[i];
        y[i] = value < 0 ? T(0) : value;
    }
}

// d = g where y > 0; along += d * (z - mean), plain += d.
template <typename T>
void through_relu(const T* APART g, const T* APART y, const T* APART z, const T* APART mean, T* APART d, T* APART along, T* APART plain,
                  Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T reaches = g[i], value = y[i] <= 0 ? T(0) : reaches;  // NaN is kept
        d[i] = value;
        along[i] += value * (z[i] - mean[i]);
        plain[i] += value;
    }
}

// plain += u, along += u * (x - mean).
template <typename T>
void add_moments(const T* APART u, const T* APART x, const T* APART mean, T* APART along, T* APART plain, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T value = u[i];
        along[i] += value * (x[i] - mean[i]);
        plain[i] += value;
    }
}

// Selects the value at the corner `where`.
template <typename T>
void pick(const T* APART a, const T* APART b, const T* APART c, const T* APART d, const std::uint8_t* APART where, T* APART to, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T values[] = {a[i], b[i], c[i], d[i]};
        const T upper = where[i] & 1 ? values[1] : values[0], lower = where[i] & 1 ? values[3] : values[2];
        to[i] = where[i] & 2 ? lower : upper;
    }
}

template <typename T>
void add_product(const T* APART a, const T* APART b, T* APART sum, Size channels) {
    for (Size i = 0; i < channels; ++i) sum[i] += a[i] * b[i];
}

// to = base + (x - mean) * slope.
template <typename T>
void line(const T* APART x, const T* APART mean, const T* APART base, const T* APART slope, T* APART to, Size channels) {
    for (Size i = 0; i < channels; ++i) to[i] = base[i] + (x[i] - mean[i]) * slope[i];
}

template <typename T>
void add_scaled(const T* APART d, const T* APART factor, T* APART to, Size channels) {
    for (Size i = 0; i < channels; ++i) to[i] += d[i] * factor[i];
}

template <typename T>
void add_scaled_where(const T* APART d, const T* APART factor, const std::uint8_t* APART where, std::uint8_t place, T* APART to, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T value = d[i] * factor[i];
        to[i] += where[i] == place ? value : T(0);
    }
}

// to_d = base + to_d * along + (z - mean) * slope, where y > 0.
template <typename T>
void finish(const T* APART y, const T* APART z, const T* APART mean, const T* APART base, const T* APART along, const T* APART slope,
            T* APART to_d, Size channels) {
    for (Size i = 0; i < channels; ++i) {
        const T value = base[i] + to_d[i] * along[i] + (z[i] - mean[i]) * slope[i];
        to_d[i] = y[i] <= 0 ? T(0) : value;
    }
}

template <typename T>
void norm_forward(const T* x, const T* scale, const T* shift, T* y, T* mean, T* r, T* picked, std::uint8_t* where, const Norm& s, double eps) {
    const Size channels = s.channels;
    std::vector<double> means(static_cast<std::size_t>(channels)), variances(means.size());
    std::vector<T> factor(means.size()), sign(means.size());
    for (Size task = 0; task < s.tasks; ++task, x += s.rows() * channels, scale += channels, shift += channels, mean += channels, r += channels) {
        moments(x, s, means, variances);
        for (Size c = 0; c < channels; ++c) {
            const double deviation = 1 / std::sqrt(variances[static_cast<std::size_t>(c)] + eps);
            mean[c] = T(means[static_cast<std::size_t>(c)]);
            r[c] = T(deviation);
            factor[static_cast<std::size_t>(c)] = T(double(scale[c]) * deviation);
            sign[static_cast<std::size_t>(c)] = scale[c] < 0 ? T(-1) : T(1);
        }
        const Size size = s.results() * channels;
        const auto answer = [&](const T* z, Size at) { affine_relu(z + at, mean, factor.data(), shift, y + at, channels); };
        if (s.pool)
            each_square(s, [&](Size i, Size place) {
                const T *first = x + place * channels, *third = first + s.width * channels;
                largest(first, first + channels, third, third + channels, sign.data(), picked + i * channels, where + i * channels, channels);
                answer(picked, i * channels);
            });
        else
            for (Size at = 0; at < size; at += channels) answer(x, at);
        y += size;
        if (s.pool) picked += size, where += size;
    }
}

// to[place] = base + (x - mean) * slope (+ u * along), plus d * factor at the maxima.
template <typename T>
void spread(T* to, const T* x, const T* u, const T* d, const std::uint8_t* where, const Norm& s, const T* mean, const T* base, const T* slope,
            const T* along, const T* factor) {
    const Size channels = s.channels;
    for (Size image = 0; image < s.n; ++image)
        for (Size row = 0; row < s.height; ++row)
            for (Size column = 0; column < s.width; ++column, to += channels, x += channels) {
                line(x, mean, base, slope, to, channels);
                if (u) add_scaled(u, along, to, channels), u += channels;
                if (!s.pool) {
                    add_scaled(d, factor, to, channels), d += channels;
                } else if (row < 2 * s.high() && column < 2 * s.wide()) {
                    const Size from = ((image * s.high() + row / 2) * s.wide() + column / 2) * channels;
                    add_scaled_where(d + from, factor, where + from, static_cast<std::uint8_t>(row % 2 * 2 + column % 2), to, channels);
                }
            }
}

template <typename T>
void norm_gradient(const T* grad_y, const T* x, const T* scale, const T* picked, const std::uint8_t* where, const T* mean, const T* r,
                   const T* y, T* to_x, T* to_scale, T* d_sum, T* d, T* t, const Norm& s) {
    const Size channels = s.channels, size = s.results() * channels;
    Sums<T> along(channels), plain(channels);
    std::vector<T> base(static_cast<std::size_t>(channels)), slope(base.size()), factor(base.size());
    for (Size task = 0; task < s.tasks; ++task) {
        const T* z = s.pool ? picked : x;
        along.clear(), plain.clear();
        for (Size i = 0; i < s.results(); ++i) {
            const Size at = i * channels;
            through_relu(grad_y + at, y + at, z + at, mean, d + at, along.part(), plain.part(), channels);
            if ((i + 1) % s.at_once() == 0 || i + 1 == s.results()) along.join(), plain.join();
        }
        const double m = double(s.rows());
        for (Size c = 0; c < channels; ++c) {
            const double sr = double(scale[c]) * r[c];
            t[c] = T(along[c]), d_sum[c] = T(plain[c]), to_scale[c] = T(along[c] * r[c]);
            factor[static_cast<std::size_t>(c)] = T(sr);
            base[static_cast<std::size_t>(c)] = T(-sr * plain[c] / m);
            slope[static_cast<std::size_t>(c)] = T(-sr * r[c] * r[c] * along[c] / m);
        }
        spread<T>(to_x, x, nullptr, d, where, s, mean, base.data(), slope.data(), nullptr, factor.data());
        x += s.rows() * channels, to_x += s.rows() * channels, grad_y += size, y += size, d += size;
        if (s.pool) picked += size, where += size;
        scale += channels, mean += channels, r += channels, to_scale += channels, d_sum += channels, t += channels;
    }
}

template <typename T>
void norm_second(const T* u, const T* p, const T* q, const T* x, const T* scale, const T* picked, const std::uint8_t* where, const T* mean,
                 const T* r, const T* y, const T* d, const T* d_sum, const T* t, T* to_d, T* to_x, T* to_scale, const Norm& s) {
    const Size channels = s.channels, size = s.results() * channels;
    Sums<T> u_sums(channels), ux_sums(channels), ud_sums(channels);
    std::vector<T> here(static_cast<std::size_t>(channels));
    std::vector<T> base(here.size()), slope(here.size()), along(here.size()), factor(here.size());
    std::vector<T> d_base(here.size()), d_along(here.size()), d_slope(here.size());
    for (Size task = 0; task < s.tasks; ++task) {
        const T* z = s.pool ? picked : x;
        u_sums.clear(), ux_sums.clear(), ud_sums.clear();
        for (Size i = 0; i < s.rows(); ++i) {
            add_moments(u + i * channels, x + i * channels, mean, ux_sums.part(), u_sums.part(), channels);
            if ((i + 1) % s.at_once() == 0 || i + 1 == s.rows()) u_sums.join(), ux_sums.join();
        }
        // to_d temporarily holds u at the positions that determine y.
        const auto add_reaching = [&](Size i) {
            add_product(to_d + i * channels, d + i * channels, ud_sums.part(), channels);
            if ((i + 1) % s.at_once() == 0 || i + 1 == s.results()) ud_sums.join();
        };
        if (s.pool)
            each_square(s, [&](Size i, Size place) {
                const T *first = u + place * channels, *third = first + s.width * channels;
                pick(first, first + channels, third, third + channels, where + i * channels, to_d + i * channels, channels);
                add_reaching(i);
            });
        else
            for (Size i = 0; i < s.results(); ++i) std::copy_n(u + i * channels, channels, to_d + i * channels), add_reaching(i);
        const double m = double(s.rows());
        for (Size c = 0; c < channels; ++c) {
            const std::size_t k = static_cast<std::size_t>(c);
            const double rr = r[c], sr = double(scale[c]) * rr, u_mean = u_sums[c] / m, a = rr * t[c] / m, b = rr * ux_sums[c] / m;
            const double inner = ud_sums[c] - u_mean * d_sum[c] - m * a * b, cc = p[c] - sr * b, e = -sr * a;
            base[k] = T(-rr * (e * u_mean + cc * d_sum[c] / m));
            slope[k] = T(-rr * rr * (e * b + cc * a) - double(scale[c]) * inner * rr * rr * rr / m);
            along[k] = T(rr * e), factor[k] = T(rr * cc);
            d_base[k] = T(q[c] - sr * u_mean), d_along[k] = T(sr), d_slope[k] = T(cc * rr);
            to_scale[c] = T(rr * inner);
        }
        spread<T>(to_x, x, u, d, where, s, mean, base.data(), slope.data(), along.data(), factor.data());
        for (Size i = 0; i < s.results(); ++i)
            finish(y + i * channels, z + i * channels, mean, d_base.data(), d_along.data(), d_slope.data(), to_d + i * channels, channels);
        x += s.rows() * channels, u += s.rows() * channels, to_x += s.rows() * channels;
        y += size, d += size, to_d += size;
        if (s.pool) picked += size, where += size;
        p += channels, q += channels, scale += channels, mean += channels, r += channels, d_sum += channels, t += channels, to_scale += channels;
    }
}

// Exceptions must not cross the C interface: returns 1 if memory is exhausted, else 0.
template <typename Work>
int done(Work work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// ---- The interface for native.py, for float and double.

#define FOR(T, NAME)                                                                                                                    \
    extern "C" int convolve_##NAME(const T* x, const T* w, T* y, Shape s) {                                                             \
        return done([&] { convolve(x, w, y, s); });                                                                                     \
    }                                                                                                                                   \
    extern "C" int to_images_##NAME(const T* g, const T* w, T* to, Shape s) {                                                           \
        return done([&] { to_images(g, w, to, s); });                                                                                   \
    }                                                                                                                                   \
    extern "C" int to_kernels_##NAME(const T* g, const T* x, T* to, Shape s) {                                                          \
        return done([&] { to_kernels(g, x, to, s); });                                                                                  \
    }                                                                                                                                   \
    extern "C" int norm_forward_##NAME(const T* x, const T* scale, const T* shift, T* y, T* mean, T* r, T* picked, std::uint8_t* where, \
                                       Norm s, double eps) {                                                                            \
        return done([&] { norm_forward(x, scale, shift, y, mean, r, picked, where, s, eps); });                                         \
    }                                                                                                                                   \
    extern "C" int norm_gradient_##NAME(const T* g, const T* x, const T* scale, const T* picked, const std::uint8_t* where,             \
                                        const T* mean, const T* r, const T* y, T* to_x, T* to_scale, T* d_sum, T* d, T* t, Norm s) {    \
        return done([&] { norm_gradient(g, x, scale, picked, where, mean, r, y, to_x, to_scale, d_sum, d, t, s); });                    \
    }                                                                                                                                   \
    extern "C" int norm_second_##NAME(const T* u, const T* p, const T* q, const T* x, const T* scale, const T* picked,                  \
                                      const std::uint8_t* where, const T* mean, const T* r, const T* y, const T* d, const T* d_sum,     \
                                      const T* t, T* to_d, T* to_x, T* to_scale, Norm s) {                                              \
        return done([&] { norm_second(u, p, q, x, scale, picked, where, mean, r, y, d, d_sum, t, to_d, to_x, to_scale, s); });          \
    }

FOR(float, float32)
FOR(double, float64)
