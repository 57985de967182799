/* Convolutions of stride 1 that keep the size of their grid, by F(m x m, r x r) of Winograd (1980) in the form of Lavin and Gray (2016,
 * arXiv 1509.09308): tiles of t x t = (m + r - 1)^2 inputs become m x m outputs, with one product of matrices for each of the t x t
 * places of a transformed tile.
 *
 * Frames are channels-last (B, H, W, C), float32 or bfloat16; sums are float32. Transformed weights lie as (t * t, panels, inputs, WIDTH),
 * a panel being WIDTH outputs, the last one filled with zeros. Work is shared out by place and by tile, never within a sum, so that the
 * number of threads changes no number.
 *
 * The sizes m and t of each form, its transforms BT, AT and G, and their transposes are constants in transforms.h, which is written when
 * this is compiled.
 */
#include <stdint.h>

#include "transforms.h"

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4, ROWS = 6 };
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2, ROWS = 6 };
#else
enum { LANES = 4, VECTORS = 4, ROWS = 5 };
#endif
enum { WIDTH = LANES * VECTORS, MOST = 8, DEPTH = 128, TOGETHER = 2 };

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL16 _Pragma("GCC unroll 16")

typedef struct {
    long batch, height, width, inputs, outputs, pixel, block; /* pixel: numbers from one pixel of the inputs to the next */
    int threads, half_inputs, half_outputs;
} Shape;

int panel_width(void) { return WIDTH; }
int lanes(void) { return LANES; }
int together(void) { return TOGETHER; }

INLINE long least(long a, long b) { return a < b ? a : b; }

/* How far apart places lie: a line of the cache more than they hold, since at a power of two they would contend for the same lines. */
INLINE long apart(long count, long channels) { return count * channels + LANES; }

/* Frames: the first n of LANES channels, the rest zero. */
INLINE vector load(const void *frames, long at, long n, int half) {
    if (!half) {
        const float *from = (const float *)frames + at;
        if (n >= LANES) return *(const vector *)from;
        vector some = {0};
        for (long lane = 0; lane < n; lane++) some[lane] = from[lane];
        return some;
    }
    const uint16_t *from = (const uint16_t *)frames + at;
    words wide = {0};
    if (n >= LANES) wide = __builtin_convertvector(*(const halves *)from, words);
    else for (long lane = 0; lane < n; lane++) wide[lane] = from[lane];
    return (vector)(wide << 16);
}

INLINE void store(void *frames, long at, vector value, long n, int half) {
    if (!half) {
        float *to = (float *)frames + at;
        if (n >= LANES) *(vector *)to = value;
        else for (long lane = 0; lane < n; lane++) to[lane] = value[lane];
        return;
    }
    uint16_t *to = (uint16_t *)frames + at;
    words bits = (words)value;
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to the nearest, ties to even */
    words not_a_number = (words)(value != value);
    rounded = (not_a_number & 0x7fc0) | (~not_a_number & rounded);
    if (n >= LANES) *(halves *)to = __builtin_convertvector(rounded, halves);
    else for (long lane = 0; lane < n; lane++) to[lane] = (uint16_t)rounded[lane];
}

/* to (m x m) = matrix (m x n) from (n x n) matrix^T, of vectors; zeros of the matrix cost nothing, since it is a constant. */
INLINE void transform(int m, int n, const float *matrix, const vector *from, vector *to) {
    vector half[MOST * MOST];
    UNROLL for (int column = 0; column < n; column++)
        UNROLL for (int row = 0; row < m; row++) {
            vector sum = {0};
            UNROLL for (int k = 0; k < n; k++)
                if (matrix[row * n + k] != 0) sum += matrix[row * n + k] * from[k * n + column];
            half[row * n + column] = sum;
        }
    UNROLL for (int row = 0; row < m; row++)
        UNROLL for (int column = 0; column < m; column++) {
            vector sum = {0};
            UNROLL for (int k = 0; k < n; k++)
                if (matrix[column * n + k] != 0) sum += matrix[column * n + k] * half[row * n + k];
            to[row * m + column] = sum;
        }
}

/* sums (rows x vectors * LANES) = or += left (rows x depth) right (depth x WIDTH). */
INLINE void multiply(int rows, int vectors, long depth, const float *left, long row, long step, const float *right, float *sums, int add) {
    vector held[ROWS][VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) held[r][v] = (vector){0};
    for (long k = 0; k < depth; k++) {
        vector factors[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) factors[v] = *(const vector *)(right + k * WIDTH + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            float factor = left[r * row + k * step];
            UNROLL for (int v = 0; v < vectors; v++) held[r][v] += factor * factors[v];
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) {
            vector *sum = (vector *)(sums + r * WIDTH + v * LANES);
            if (add) held[r][v] += *sum;
            *sum = held[r][v];
        }
}

INLINE void multiply_panel(int vectors, long rows, long depth, const float *left, long row, long step, const float *right, float *sums, int add) {
    for (; rows >= ROWS; rows -= ROWS, left += ROWS * row, sums += ROWS * WIDTH) multiply(ROWS, vectors, depth, left, row, step, right, sums, add);
    switch (rows) {
    case 5: multiply(5, vectors, depth, left, row, step, right, sums, add); break;
    case 4: multiply(4, vectors, depth, left, row, step, right, sums, add); break;
    case 3: multiply(3, vectors, depth, left, row, step, right, sums, add); break;
    case 2: multiply(2, vectors, depth, left, row, step, right, sums, add); break;
    case 1: multiply(1, vectors, depth, left, row, step, right, sums, add); break;
    }
}

/* A square of LANES x LANES numbers, turned about its diagonal: halves, quarters, ... are exchanged in pairs of rows. */
INLINE void turn_square(const float *from, float *to) {
    vector rows[LANES];
    UNROLL16 for (int row = 0; row < LANES; row++) rows[row] = *(const vector *)(from + row * WIDTH);
    UNROLL for (int step = 1; step < LANES; step *= 2)
        UNROLL16 for (int row = 0; row < LANES; row++) {
            if (row & step) continue;
            words upper, lower;
            UNROLL16 for (int lane = 0; lane < LANES; lane++) {
                upper[lane] = lane & step ? LANES + lane - step : lane;
                lower[lane] = lane & step ? LANES + lane : lane + step;
            }
            vector first = rows[row], second = rows[row + step];
            rows[row] = __builtin_shuffle(first, second, upper);
            rows[row + step] = __builtin_shuffle(first, second, lower);
        }
    UNROLL16 for (int row = 0; row < LANES; row++) *(vector *)(to + row * WIDTH) = rows[row];
}

/* turned (columns, WIDTH) of weights (rows, WIDTH), filled up with zeros. */
static void turn(const float *weights, long rows, long columns, float *turned) {
    for (long row = 0; row < WIDTH; row += LANES)
        for (long column = 0; column < columns; column += LANES) {
            if (rows - row >= LANES) {
                turn_square(weights + row * WIDTH + column, turned + column * WIDTH + row);
                continue;
            }
            for (long k = column; k < least(columns, column + LANES); k++)
                for (long lane = row; lane < row + LANES; lane++) turned[k * WIDTH + lane] = lane < rows ? weights[lane * WIDTH + k] : 0;
        }
}

/* The product of one place for one panel, of which `columns` are wanted. It is summed a piece of the depth after the other: the piece of
 * `right` stays in the nearest cache, and shorter sums round less. */
static void multiply_place(long columns, long rows, long depth, const float *left, long row, long step, const float *right, float *sums, int add) {
    for (long k = 0; k < depth; k += DEPTH) {
        long piece = least(DEPTH, depth - k);
        const float *from = left + k * step, *by = right + k * WIDTH;
        switch ((least(columns, WIDTH) + LANES - 1) / LANES) {
        case 1: multiply_panel(1, rows, piece, from, row, step, by, sums, add || k); break;
        case 2: multiply_panel(2, rows, piece, from, row, step, by, sums, add || k); break;
#if defined(__AVX512F__) || !defined(__AVX2__)
        case 3: multiply_panel(3, rows, piece, from, row, step, by, sums, add || k); break;
        case 4: multiply_panel(4, rows, piece, from, row, step, by, sums, add || k); break;
#endif
        }
    }
}

typedef struct {
    long frame, top, left;
} Place;

#define JOINED(a, b) a##_##b
#define NAMED(a, b) JOINED(a, b)
#define OF(name) NAMED(name, TAPS)

#define TAPS 3
#include "form.h"
#undef TAPS
#define TAPS 5
#include "form.h"
