/* The bound: what a careful person writes by hand on the NumPy C-API, with the checks of the backends and nothing else.
 * No monitoring, no table of functions, no other element types. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

#include "kernel.h"

static int takes(Py_ssize_t expected, Py_ssize_t given) {
    if (given == expected) return 1;
    PyErr_Format(PyExc_TypeError, "takes %zd arguments, %zd given", expected, given);
    return 0;
}

static int as_double(PyObject *object, double *value) {
    if (PyFloat_CheckExact(object)) {
        *value = PyFloat_AS_DOUBLE(object);
        return 1;
    }
    if (!PyFloat_Check(object) && !PyLong_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "must be f64");
        return 0;
    }
    *value = PyFloat_AsDouble(object);
    return *value != -1.0 || !PyErr_Occurred();
}

static const double *as_vector(PyObject *object, npy_intp *length) {
    if (!PyArray_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "must be an array");
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != NPY_DOUBLE || PyArray_ISBYTESWAPPED(array)) {
        PyErr_SetString(PyExc_TypeError, "must be an array of f64");
        return NULL;
    }
    if (PyArray_NDIM(array) != 1) {
        PyErr_SetString(PyExc_ValueError, "must have one axis");
        return NULL;
    }
    if (!PyArray_CHKFLAGS(array, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED)) {
        PyErr_SetString(PyExc_ValueError, "must be contiguous and aligned");
        return NULL;
    }
    *length = PyArray_DIM(array, 0);
    return (const double *)PyArray_DATA(array);
}

static PyObject *noop(PyObject *module, PyObject *const *values, Py_ssize_t count) {
    if (!takes(0, count)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *add(PyObject *module, PyObject *const *values, Py_ssize_t count) {
    double x, y;
    if (!takes(2, count) || !as_double(values[0], &x) || !as_double(values[1], &y)) return NULL;
    return PyFloat_FromDouble(x + y);
}

static PyObject *dot(PyObject *module, PyObject *const *values, Py_ssize_t count) {
    npy_intp n, m;
    if (!takes(2, count)) return NULL;
    const double *x = as_vector(values[0], &n);
    if (!x) return NULL;
    const double *y = as_vector(values[1], &m);
    if (!y) return NULL;
    if (n != m) return PyErr_Format(PyExc_ValueError, "lengths differ: %zd and %zd", n, m);
    return PyFloat_FromDouble(kernel_dot(x, y, n));
}

static PyMethodDef functions[] = {
    {"noop", (PyCFunction)(void (*)(void))noop, METH_FASTCALL, "Do nothing."},
    {"add", (PyCFunction)(void (*)(void))add, METH_FASTCALL, "Add two numbers."},
    {"dot", (PyCFunction)(void (*)(void))dot, METH_FASTCALL, "Inner product of two vectors."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "nif_lab_bound", .m_size = -1,
                                        .m_methods = functions};

PyMODINIT_FUNC PyInit_nif_lab_bound(void) {
    import_array();
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    if (module) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
