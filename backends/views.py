"""The view words as Numba intrinsics, for the processor's Numba and for CUDA's alike: the two have modules of the same
shape (`types`, `cgutils`, `intrinsic`) but do not share them.

A view owns nothing, so no references are counted for it, and it checks nothing.
"""


def itemsize_of(context, types, array_type):
    return context.get_constant(types.intp, array_type.dtype.bitwidth // 8)


def size_of(context, builder, types, value, value_type):
    return context.cast(builder, value, value_type, types.intp)


def sizes_of(context, builder, types, signature, arguments, first):
    """The arguments from `first` on, as sizes."""
    pairs = zip(arguments[first:], signature.args[first:], strict=True)
    return [size_of(context, builder, types, value, value_type) for value, value_type in pairs]


def source_of(context, builder, signature, arguments, position):
    return context.make_array(signature.args[position])(context, builder, arguments[position])


def view_of(context, builder, types, array_type, pointer, shape, strides):
    array = context.make_array(array_type)(context, builder)
    context.populate_array(
        array,
        data=builder.bitcast(pointer, array.data.type),
        shape=shape,
        strides=strides,
        itemsize=itemsize_of(context, types, array_type),
        meminfo=None,
    )
    return array._getvalue()


def matrix_of(context, builder, types, signature, source, at, rows, columns):
    made = signature.return_type
    itemsize = itemsize_of(context, types, made)
    strides = (builder.mul(columns, itemsize), itemsize)
    return view_of(context, builder, types, made, builder.gep(source.data, [at]), (rows, columns), strides)


def views(intrinsic, types, cgutils):
    """The words (matrix, vector, block, row)."""

    @intrinsic
    def matrix(typing_context, buffer, at, rows, columns):
        def generate(context, builder, signature, arguments):
            source = source_of(context, builder, signature, arguments, 0)
            sizes = sizes_of(context, builder, types, signature, arguments, 1)
            return matrix_of(context, builder, types, signature, source, *sizes)

        return types.Array(buffer.dtype, 2, "C")(buffer, at, rows, columns), generate

    @intrinsic
    def vector(typing_context, buffer, at, length):
        def generate(context, builder, signature, arguments):
            source = source_of(context, builder, signature, arguments, 0)
            at, length = sizes_of(context, builder, types, signature, arguments, 1)
            made = signature.return_type
            pointer = builder.gep(source.data, [at])
            return view_of(context, builder, types, made, pointer, (length,), (itemsize_of(context, types, made),))

        return types.Array(buffer.dtype, 1, "C")(buffer, at, length), generate

    @intrinsic
    def block(typing_context, a, row, column, rows, columns):
        def generate(context, builder, signature, arguments):
            source = source_of(context, builder, signature, arguments, 0)
            row, column, rows, columns = sizes_of(context, builder, types, signature, arguments, 1)
            stride, itemsize = cgutils.unpack_tuple(builder, source.strides, 2)
            offset = builder.add(builder.mul(row, stride), builder.mul(column, itemsize))
            pointer = cgutils.pointer_add(builder, source.data, offset)
            made = signature.return_type
            return view_of(context, builder, types, made, pointer, (rows, columns), (stride, itemsize))

        return types.Array(a.dtype, 2, "A")(a, row, column, rows, columns), generate

    @intrinsic
    def row(typing_context, a, i):
        def generate(context, builder, signature, arguments):
            source = source_of(context, builder, signature, arguments, 0)
            (i,) = sizes_of(context, builder, types, signature, arguments, 1)
            stride, _ = cgutils.unpack_tuple(builder, source.strides, 2)
            columns = cgutils.unpack_tuple(builder, source.shape, 2)[1]
            pointer = cgutils.pointer_add(builder, source.data, builder.mul(i, stride))
            made = signature.return_type
            return view_of(context, builder, types, made, pointer, (columns,), (itemsize_of(context, types, made),))

        return types.Array(a.dtype, 1, "C")(a, i), generate

    return matrix, vector, block, row


def constant_of(intrinsic, types):
    """The word `const`: `value` at the type of `like`, rounded once."""

    @intrinsic
    def const(typing_context, like, value):
        if not isinstance(like, types.Float):
            return None

        def generate(context, builder, signature, arguments):
            return context.cast(builder, arguments[1], signature.args[1], signature.return_type)

        return like(like, value), generate

    return const


def strided_of(intrinsic, types):
    """The view of weights whose home has rows of another length than the buffer's."""

    @intrinsic
    def strided(typing_context, a, at, rows, columns, length):
        """The view (rows, columns) of rows `length` elements apart, whose first element would be element `at` of `a`;
        only part of it need be there."""

        def generate(context, builder, signature, arguments):
            source = source_of(context, builder, signature, arguments, 0)
            at, rows, columns, length = sizes_of(context, builder, types, signature, arguments, 1)
            made = signature.return_type
            itemsize = itemsize_of(context, types, made)
            pointer = builder.gep(source.data, [at])
            strides = (builder.mul(length, itemsize), itemsize)
            return view_of(context, builder, types, made, pointer, (rows, columns), strides)

        return types.Array(a.dtype, 2, "A")(a, at, rows, columns, length), generate

    return strided
