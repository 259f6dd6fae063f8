# cuDNN's C++ front end: headers alone, from PyPI, since Debian has no package of them. Downloaded into the build folder unless
# NOSTOS_CUDNN_FRONTEND_INCLUDE_DIR names a folder that holds cudnn_frontend.h. Newer releases also need NVRTC and the driver's library.
set(NOSTOS_CUDNN_FRONTEND_VERSION 1.18.0)
set(frontend_dir ${CMAKE_BINARY_DIR}/cudnn_frontend)
find_path(NOSTOS_CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${frontend_dir}/include)
if(NOT NOSTOS_CUDNN_FRONTEND_INCLUDE_DIR)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  message(STATUS "Downloading nvidia-cudnn-frontend ${NOSTOS_CUDNN_FRONTEND_VERSION} from PyPI")
  execute_process(COMMAND ${Python3_EXECUTABLE} -m pip download --quiet --no-deps --dest ${frontend_dir}
                          nvidia-cudnn-frontend==${NOSTOS_CUDNN_FRONTEND_VERSION}
                  RESULT_VARIABLE status ERROR_VARIABLE error)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "cannot download nvidia-cudnn-frontend ${NOSTOS_CUDNN_FRONTEND_VERSION}: ${error}\n"
                        "Unpack its wheel yourself and pass -DNOSTOS_CUDNN_FRONTEND_INCLUDE_DIR=.../include")
  endif()
  file(GLOB wheel ${frontend_dir}/*.whl)
  file(ARCHIVE_EXTRACT INPUT ${wheel} DESTINATION ${frontend_dir} PATTERNS "include/*")
  find_path(NOSTOS_CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${frontend_dir}/include REQUIRED)
endif()
