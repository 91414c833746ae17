// One kernel language for CUDA C and OpenCL C 1.2. Kernels use only what is here, C99, and 32- and 64-bit integers.
#ifdef __OPENCL_VERSION__
typedef uint u32;
typedef ulong u64;
typedef int s32;
typedef long s64;
#define KERNEL(threads) __kernel __attribute__((reqd_work_group_size(threads, 1, 1))) void
#define GLOBAL __global
#define LOCAL __local
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#define THREAD ((u32)get_local_id(0))
#define GROUP(axis) ((u32)get_group_id(axis))
#define GROUPS(axis) ((u32)get_num_groups(axis))
#define ROTATE(x, n) rotate((u32)(x), (u32)(n))
#else
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define GLOBAL
#define LOCAL __shared__
#define BARRIER() __syncthreads()
#define THREAD threadIdx.x
#define AXIS(v, axis) ((axis) == 0 ? v.x : (axis) == 1 ? v.y : v.z)
#define GROUP(axis) AXIS(blockIdx, axis)
#define GROUPS(axis) AXIS(gridDim, axis)
#define ROTATE(x, n) __funnelshift_l(x, x, n)
#endif
#define UNROLL _Pragma("unroll")
// An operand: a block of memory, and where in it the operand starts. A kernel moves to it first.
#define IN(type, name) GLOBAL const type *name, u64 name##_at
#define AT(name) name += name##_at
// All of n elements, 256 threads a group, however many groups there are.
#define EACH(i, n) for (u64 i = (u64)GROUP(0) * 256 + THREAD; i < (n); i += (u64)GROUPS(0) * 256)
// A convolution. Channels of one group: ci in, co out. The inner dimension of a pair of products has 2 ci numbers a tap.
typedef struct {
    u32 h, w, cin, cout, kh, kw, stride_y, stride_x, dilation_y, dilation_x, top, left, oh, ow, ci, co, pixels;
    // Of the inner dimension, how much a group of threads adds up.
    u32 depth;
} Geometry;
